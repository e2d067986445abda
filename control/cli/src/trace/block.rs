//! `popf trace NAME --block`: guest code beside what a translator has made of it, and why.

use std::fmt::Write as _;

use board::insight::{BlockView, PieceView};
use iced_x86::{Decoder, DecoderOptions, Formatter as _, NasmFormatter};
use insight::Symbols;

use super::text::called;

/// How wide the guest's side is.
const GUEST: usize = 46;

/// One block.
pub fn listing(block: &BlockView, symbols: &Symbols) -> String {
    let mut text = String::new();
    let name = called(symbols, block.rip);
    // Writing to a string cannot fail, here and below.
    let _ = writeln!(
        text,
        "block at {:#x} {name}\nguest-physical {:#x}; {}; {} direct jumps lead straight here\n",
        block.rip, block.physical, block.circumstances, block.incoming
    );
    let _ = writeln!(text, "{:<GUEST$} | the host's", "the guest's");
    for piece in &block.pieces {
        self::piece(&mut text, piece, block.bits, symbols);
    }
    if block.omitted > 0 {
        let _ = writeln!(text, "... and {} pieces more", block.omitted);
    }
    text
}

fn piece(text: &mut String, piece: &PieceView, bits: u32, symbols: &Symbols) {
    let mark = match (piece.guest.is_empty(), piece.reason.is_empty()) {
        (_, true) => "  as it is".to_owned(),
        _ => format!("  {}", piece.reason.escape_debug()),
    };
    let _ = writeln!(text, "{}{mark}", "-".repeat(2));
    let guest = lines(&piece.guest, piece.rip, bits, Some(symbols));
    let host = lines(&piece.host, piece.address, 64, None);
    for n in 0..guest.len().max(host.len()) {
        let side = |list: &[String]| list.get(n).cloned().unwrap_or_default();
        let line = format!("{:<GUEST$} | {}", side(&guest), side(&host));
        let _ = writeln!(text, "{}", line.trim_end());
    }
}

/// Code as text, with where its branches lead in the guest's words.
fn lines(code: &[u8], address: u64, bits: u32, symbols: Option<&Symbols>) -> Vec<String> {
    // Whatever a VM says, a decoder knows three.
    let bits = if matches!(bits, 16 | 32) { bits } else { 64 };
    let mut formatter = NasmFormatter::new();
    formatter.options_mut().set_branch_leading_zeros(false);
    let line = |instruction: iced_x86::Instruction| {
        let mut text = String::new();
        formatter.format(&instruction, &mut text);
        let name =
            symbols.map(|symbols| called(symbols, instruction.near_branch_target())).unwrap_or_default();
        let name = if name.is_empty() { name } else { format!(" <{name}>") };
        format!("{:x}  {text}{name}", instruction.ip())
    };
    Decoder::with_ip(bits, code, address, DecoderOptions::NONE).into_iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guest_and_host_stand_side_by_side() {
        let block = BlockView {
            rip: 0x1000,
            physical: 0x1000,
            bits: 64,
            circumstances: "Long64, ring 0".into(),
            incoming: 2,
            pieces: vec![
                PieceView {
                    rip: 0x1000,
                    guest: vec![0x90],
                    address: 0x50,
                    host: vec![0x90],
                    reason: "".into(),
                },
                PieceView {
                    rip: 0x1001,
                    guest: vec![0xfa],
                    address: 0x51,
                    host: vec![0x31, 0xc0, 0xc3],
                    reason: "sensitive (Cli)".into(),
                },
            ],
            omitted: 0,
        };
        let symbols = Symbols::new(vec![(0x1000, "here".into())]);
        let text = listing(&block, &symbols);
        let expected =
            ["block at 0x1000 here", "--  as it is", "1000  nop", "--  sensitive (Cli)", "| 51  xor eax,eax"];
        let mut rest = &text[..];
        for part in expected {
            let at = rest.find(part).unwrap_or_else(|| panic!("no {part:?} in {text}"));
            rest = &rest[at + part.len()..];
        }
    }
}
