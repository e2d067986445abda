//! Which engine runs guest code, and why.

use std::sync::Arc;

use iced_x86::Instruction;
use memory::GuestRam;
use translator::{Options, Peers, Translator};
use vcpu::{CpuState, Engine, EngineError, Width};
use x86::{Cr0, Cr4, Efer, Mode, Rflags, Xcr0};

use crate::machine::Config;

/// What the user asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EngineChoice {
    /// The best that works on this host: binary translation, which so far is the only one.
    #[default]
    Auto,
    /// Binary translation.
    Translator,
}

/// The name of the binary translator.
pub const TRANSLATOR: &str = "translator";

/// Bytes of all translation caches together, if they are as large as the engine thinks fit: they lie below 2 GiB, with
/// whatever else there is.
const CACHES: usize = 1 << 30;

/// What the engines of one machine have in common.
pub(crate) fn peers(config: &Config) -> Arc<Peers> {
    Peers::new(config.cpus.into())
}

/// An engine for one vCPU.
pub(crate) fn make(
    config: &Config,
    ram: &GuestRam,
    peers: &Arc<Peers>,
    physical_bits: u8,
) -> Result<Box<dyn Engine>, (&'static str, EngineError)> {
    match config.engine {
        EngineChoice::Auto | EngineChoice::Translator => {
            let own = Options::default();
            let fit = own.cache_bytes.min(CACHES / peers.count());
            let cache_bytes = config.cache.unwrap_or(fit);
            let options = Options { physical_bits, cache_bytes, ..Options::default() };
            match Translator::among(peers, ram.clone(), options) {
                Ok(engine) => Ok(Box::new(engine)),
                Err(error) => Err((TRANSLATOR, error)),
            }
        }
    }
}

/// Sets the translator up for a tiny machine and takes it down again: whether it would work on this host.
pub fn try_translator() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let ram = GuestRam::allocate(crate::map::MINIMUM)?;
    Translator::new(ram, Options::default())?;
    Ok(())
}

/// Whether the translator does a sensitive instruction inside translated code, in a system that is up: with flat
/// segments, in ring 0 or 3, and nothing turned off.
pub fn inlines(instruction: &Instruction, mode: Mode, ring: u8) -> bool {
    let mut cpu = CpuState::reset();
    cpu.cr4 = Cr4::PAE | Cr4::OSFXSR | Cr4::OSXSAVE | Cr4::SMAP;
    cpu.xcr0 = Xcr0::X87 | Xcr0::SSE | Xcr0::AVX;
    if mode != Mode::Real {
        cpu.cr0 |= Cr0::PE;
    }
    match mode {
        Mode::Real | Mode::Protected16 => {}
        Mode::Virtual8086 => cpu.rflags |= Rflags::VM,
        Mode::Protected32 => cpu.load_flat_segments(0x10, 0x18, Width::Protected, ring),
        Mode::Long64 => {
            cpu.cr0 |= Cr0::PG;
            cpu.efer = Efer::LME | Efer::LMA;
            cpu.load_flat_segments(0x10, 0x18, Width::Long, ring);
        }
    }
    translator::inlines(instruction, &cpu)
}

#[cfg(test)]
mod tests {
    use iced_x86::Code;

    use super::*;

    #[test]
    fn what_is_inline_depends_on_ring_and_mode() {
        let cli = Instruction::with(Code::Cli);
        let inline = |mode, ring| inlines(&cli, mode, ring);
        assert!(inline(Mode::Long64, 0) && !inline(Mode::Long64, 3) && inline(Mode::Real, 0));
        assert!(inlines(&Instruction::with(Code::Syscall), Mode::Long64, 3));
        assert!(!inlines(&Instruction::with(Code::Cpuid), Mode::Long64, 0));
        assert!(!inlines(&Instruction::with(Code::Nopd), Mode::Long64, 0), "not sensitive");
    }
}
