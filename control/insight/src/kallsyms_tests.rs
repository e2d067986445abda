//! Tables of both orders, made as the kernel's scripts make them, and what a hostile guest may make of them.

use proptest::prelude::*;

use super::*;

const BASE: u64 = 0xffff_ffff_9a00_0000;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Order {
    /// Up to Linux 6.1.
    Before,
    /// With the names' order by alphabet, as Linux 6.2 and later versions of 6.1 have.
    Sorted,
    /// Since 6.4.
    Behind,
}

fn align(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(8), 0);
}

/// A kernel's read-only data with these names, at BASE and on in steps of 16.
fn rodata(names: &[String], order: Order, counts_down: bool) -> Vec<u8> {
    let mut tokens = Vec::new();
    let mut index = Vec::new();
    for n in 0..=255_u8 {
        index.extend((tokens.len() as u16).to_le_bytes());
        match n {
            // Letters and digits stand for themselves; above are pairs.
            b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b'_' => tokens.push(n),
            200 => tokens.extend(b"Tsys_"),
            _ => {}
        }
        tokens.push(0);
    }
    let mut offsets = Vec::new();
    for n in 0..names.len() as i32 {
        offsets.extend(if counts_down { -1 - n * 16 } else { n * 16 }.to_le_bytes());
    }
    let (mut list, mut markers) = (Vec::new(), Vec::new());
    for (n, name) in names.iter().enumerate() {
        if n % GROUP == 0 {
            markers.extend((list.len() as u32).to_le_bytes());
        }
        let entry: Vec<u8> = match name.strip_prefix("sys_") {
            Some(rest) => [200].into_iter().chain(rest.bytes()).collect(),
            None => [b't'].into_iter().chain(name.bytes()).collect(),
        };
        if entry.len() > 127 {
            list.push(entry.len() as u8 | 0x80);
            list.push((entry.len() >> 7) as u8);
        } else {
            list.push(entry.len() as u8);
        }
        list.extend(entry);
    }
    let mut bytes = vec![0xaa; 64];
    let addresses = |bytes: &mut Vec<u8>| {
        bytes.extend(&offsets);
        align(bytes);
        bytes.extend(BASE.to_le_bytes());
    };
    if order != Order::Behind {
        addresses(&mut bytes);
    }
    bytes.extend((names.len() as u64).to_le_bytes());
    let sequence = if order == Order::Sorted { vec![0x8d; 3 * names.len()] } else { Vec::new() };
    for table in [list, markers, sequence, tokens, index] {
        bytes.extend(table);
        align(&mut bytes);
    }
    if order == Order::Behind {
        addresses(&mut bytes);
    }
    bytes.extend([0x55; 40]);
    bytes
}

fn names(count: usize) -> Vec<String> {
    (0..count).map(|n| if n % 3 == 0 { format!("sys_call{n}") } else { format!("helper_{n}") }).collect()
}

fn pieces(bytes: Vec<u8>) -> Vec<Piece> {
    vec![Piece { address: BASE, bytes }]
}

#[test]
fn both_orders_and_both_kinds_of_addresses_are_read() {
    for order in [Order::Before, Order::Sorted, Order::Behind] {
        for counts_down in [false, true] {
            for count in [3, 255, 256, 257, 2000] {
                let names = names(count);
                let symbols = find(&pieces(rodata(&names, order, counts_down)))
                    .unwrap_or_else(|error| panic!("{order:?} {counts_down} {count}: {error}"));
                assert_eq!(symbols.len(), count);
                for (n, name) in names.iter().enumerate() {
                    assert_eq!(symbols.find(BASE + 16 * n as u64 + 3), Some((name.as_str(), 3)));
                }
            }
        }
    }
}

#[test]
fn long_names_have_two_bytes_of_length() {
    let mut names = names(10);
    names[4] = "x".repeat(400);
    let symbols = find(&pieces(rodata(&names, Order::Before, true))).unwrap();
    assert_eq!(symbols.find(BASE + 64).unwrap().0, names[4]);
}

#[test]
fn what_is_not_there_is_told() {
    assert_eq!(find(&[]).err(), Some(KallsymsError::NoTokens));
    assert_eq!(find(&pieces(vec![0; 100])).err(), Some(KallsymsError::NoTokens));
    assert_eq!(find(&pieces(DIGITS.to_vec())).err(), Some(KallsymsError::NoTokens));
    let whole = rodata(&names(300), Order::Before, true);
    let cut = whole[whole.len() / 2..].to_vec();
    assert!(find(&pieces(cut)).is_err());
}

proptest! {
    /// Whatever a guest writes over its tables, they are read or refused.
    #[test]
    fn damage_is_survived(at in any::<prop::sample::Index>(), with in prop::collection::vec(any::<u8>(), 1..200),
                          behind in any::<bool>()) {
        let order = if behind { Order::Behind } else { Order::Before };
        let mut bytes = rodata(&names(600), order, true);
        let at = at.index(bytes.len());
        let end = (at + with.len()).min(bytes.len());
        bytes[at..end].copy_from_slice(&with[..end - at]);
        if let Ok(symbols) = find(&pieces(bytes)) {
            prop_assert!(symbols.len() <= MOST_NAMES);
        }
    }
}
