//! Names of addresses.

/// Names in the order of their addresses.
#[derive(Clone, Debug, Default)]
pub struct Symbols {
    names: Vec<(u64, String)>,
}

impl Symbols {
    /// From names in any order.
    pub fn new(mut names: Vec<(u64, String)>) -> Self {
        names.sort();
        names.dedup();
        Self { names }
    }

    /// What nm prints, and Linux's System.map and /proc/kallsyms hold: address, kind and name, a line for each.
    /// Lines that are none of that are passed over.
    pub fn from_map(text: &str) -> Self {
        let parse = |line: &str| {
            let mut words = line.split_whitespace();
            let address = u64::from_str_radix(words.next()?, 16).ok()?;
            let kind = words.next()?;
            // Code: absolute symbols and data name no instruction.
            let is_code = matches!(kind, "t" | "T" | "w" | "W");
            is_code.then_some((address, words.next()?.to_owned()))
        };
        Self::new(text.lines().filter_map(parse).collect())
    }

    /// The address of a name.
    pub fn address(&self, name: &str) -> Option<u64> {
        self.names.iter().find(|(_, other)| other == name).map(|&(address, _)| address)
    }

    /// The same, further up by `distance`, which may wrap.
    pub fn moved(self, distance: u64) -> Self {
        let moved = self.names.into_iter().map(|(address, name)| (address.wrapping_add(distance), name));
        Self::new(moved.collect())
    }

    /// These, and what others know besides.
    pub fn merge(self, others: Self) -> Self {
        Self::new(self.names.into_iter().chain(others.names).collect())
    }

    /// The name at or before an address, the last of several, and how far before.
    pub fn find(&self, address: u64) -> Option<(&str, u64)> {
        let behind = self.names.partition_point(|&(at, _)| at <= address);
        let (at, name) = self.names.get(behind.checked_sub(1)?)?;
        Some((name, address - at))
    }

    /// Every address that has a name.
    pub fn addresses(&self) -> impl Iterator<Item = u64> {
        self.names.iter().map(|&(address, _)| address)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_names_code() {
        let map = "ffffffff81000000 T _stext\nffffffff81000000 T _text\n0000000000000000 A fixed\nnonsense\n\
                   ffffffff81000060 t early\nffffffff82000000 D data\n";
        let symbols = Symbols::from_map(map);
        assert_eq!(symbols.len(), 3);
        assert_eq!(symbols.find(0xffff_ffff_8100_0064), Some(("early", 4)));
        assert_eq!(symbols.find(0xffff_ffff_8100_005f), Some(("_text", 0x5f)));
        assert_eq!(symbols.find(0x1000), None);
    }
}
