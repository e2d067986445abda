//! The grammar of `popf scan`.

use std::path::PathBuf;

use clap::Args;
use vms::Name;

use super::classify::{Class, ModeArg};

const HELP: &str = "\
Examples:
  popf scan /bin/busybox                 what of it is sensitive, and what becomes of that
  popf scan vmlinuz --symbols System.map --list
                                         a kernel's sensitive instructions, one by one
  popf run busybox -- cat /proc/kallsyms > names; popf scan vmlinuz --symbols names
  popf scan boot.bin --raw --mode real --base 0x7c00
  popf scan kernel --class offender --list --json
  popf scan --vm web                     the kernel of a VM, as it is in memory now
  popf scan --vm web --address 0xffffffffc0201000 --length 0x1000 --list

What control can be seen to reach is found by recursive descent from entry points and symbols; the rest of
the code by a sweep, which may take data for code and is marked so.
";

/// `popf scan`.
#[derive(Args, Debug)]
#[command(after_help = HELP)]
pub struct ScanArgs {
    /// An ELF or PE file, a bzImage, or with --raw anything.
    #[arg(required_unless_present = "vm")]
    pub file: Option<PathBuf>,
    /// Not a file, but what this VM has in memory: its Linux kernel's code, as it has patched itself.
    #[arg(long, value_name = "NAME", conflicts_with_all = ["file", "raw"])]
    pub vm: Option<Name>,
    /// With --vm: other code than the kernel's, from this linear address on.
    #[arg(long, value_name = "ADDRESS", requires_all = ["vm", "length"], value_parser = address)]
    pub address: Option<u64>,
    /// With --address: so many bytes of it.
    #[arg(long, value_name = "BYTES", requires = "address", value_parser = address)]
    pub length: Option<u64>,
    /// Names and places of functions, as System.map and a guest's /proc/kallsyms have them.
    #[arg(long, value_name = "FILE")]
    pub symbols: Option<PathBuf>,
    /// List every sensitive instruction by address, not only how many there are of each.
    #[arg(long)]
    pub list: bool,
    /// Only instructions of this class.
    #[arg(long, value_name = "CLASS", default_value = "sensitive")]
    pub class: Class,
    /// All of the file is code.
    #[arg(long, requires = "mode")]
    pub raw: bool,
    /// In which mode code of a raw file, or of a VM, runs; a VM's in long64 if nothing is said.
    #[arg(long, value_name = "MODE")]
    pub mode: Option<ModeArg>,
    /// Where a raw file is loaded and entered.
    #[arg(long, value_name = "ADDRESS", requires = "raw", value_parser = address)]
    pub base: Option<u64>,
    /// As JSON, with --list each instruction too.
    #[arg(long)]
    pub json: bool,
}

fn address(text: &str) -> Result<u64, String> {
    let number = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    number.map_err(|_| "an address is a number, such as 0x7c00".into())
}
