//! Which processor the host has, where makers differ.

use std::sync::OnceLock;

/// Its maker's name, its family, and its model in that.
struct Processor {
    vendor: String,
    family: u32,
    model: u32,
}

fn this() -> &'static Processor {
    static THIS: OnceLock<Processor> = OnceLock::new();
    THIS.get_or_init(|| {
        let eax = host::cpu::cpuid(1, 0).eax;
        // The extended family counts where the family is full.
        let family = match eax >> 8 & 0xf {
            0xf => 0xf + (eax >> 20 & 0xff),
            family => family,
        };
        // So does the extended model, but for the oldest.
        let model = eax >> 4 & 0xf | eax >> 12 & 0xf0;
        Processor { vendor: host::cpu::vendor(), family, model }
    })
}

/// AMD's, or Hygon's, who build AMD's.
pub fn is_amd() -> bool {
    matches!(this().vendor.as_str(), "AuthenticAMD" | "HygonGenuine")
}

/// AMD's own, of this family.
pub fn is_amd_family(family: u32) -> bool {
    this().vendor == "AuthenticAMD" && this().family == family
}

/// Whether it is one of those that a corpus names: `MAKER`, `MAKER FAMILY` or `MAKER FAMILY MODEL`.
pub fn is_named(name: &str) -> bool {
    let mut words = name.split_whitespace();
    let (vendor, numbers) = (words.next(), [this().family, this().model]);
    vendor == Some(this().vendor.as_str())
        && words.zip(numbers).all(|(word, number)| word.parse() == Ok(number))
}
