//! Which gigabytes of the linear address space something has been seen in.
//!
//! Pages larger than 4 KiB are noted by the gigabyte they are in, which is as large as they come. Systems have them in few;
//! a guest that has them in many is believed to have them everywhere, so that it cannot make the list long.

/// Most that are told apart.
const MOST: usize = 64;

/// See the module's documentation.
#[derive(Clone, Debug, Default)]
pub struct Gigabytes {
    numbers: Vec<u64>,
    everywhere: bool,
}

impl Gigabytes {
    /// Takes note of the gigabyte that holds an address.
    pub fn note(&mut self, linear: u64) {
        if self.may_hold(linear) {
            return;
        }
        if self.numbers.len() < MOST {
            self.numbers.push(linear >> 30);
        } else {
            self.everywhere = true;
        }
    }

    /// Whether an address is in one that has been noted.
    pub fn may_hold(&self, linear: u64) -> bool {
        self.everywhere || self.numbers.contains(&(linear >> 30))
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.numbers.clear();
        self.everywhere = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_known_by_its_whole_number() {
        let mut seen = Gigabytes::default();
        seen.note(0x7fff_c000_1000);
        assert!(seen.may_hold(0x7fff_c000_0000) && seen.may_hold(0x7fff_ffff_ffff));
        assert!(!seen.may_hold(0x7fff_bfff_ffff));
        assert!(!seen.may_hold(0xffff_ffff_c000_1000), "the same modulo 64");
        seen.clear();
        assert!(!seen.may_hold(0x7fff_c000_1000));
    }

    #[test]
    fn many_are_everywhere_and_take_no_more_room() {
        let mut seen = Gigabytes::default();
        (0..10 * MOST as u64).for_each(|n| seen.note(n << 30));
        assert_eq!(seen.numbers.len(), MOST);
        assert!(seen.may_hold(1 << 50));
        seen.clear();
        assert!(!seen.may_hold(0));
    }
}
