//! Which engine runs guest code, and why.

use std::sync::Arc;

use host::{HostError, Memfd, Stubs};
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

pub use translator::Promotion;

/// The name of the binary translator.
pub const TRANSLATOR: &str = "translator";

/// Bytes of all translation caches together, if they are as large as the engine thinks fit: they lie below 2 GiB, with
/// whatever else there is.
const CACHES: usize = 1 << 30;

/// Address spaces of the guest that can run untranslated at a time.
const STUBS: usize = 6;

/// Processes for those that do, if this host gives any. With several vCPUs there are none.
pub(crate) fn stubs(config: &Config) -> Option<Arc<Stubs>> {
    config.direct.filter(|_| config.cpus == 1)?;
    match Stubs::start(STUBS) {
        Ok(stubs) => Some(Arc::new(stubs)),
        Err(error) => {
            tracing::info!(%error, "all of the guest is translated: no process can be started");
            None
        }
    }
}

/// What the engines of one machine have in common.
pub(crate) fn peers(config: &Config) -> Arc<Peers> {
    Peers::new(config.cpus.into())
}

/// An engine for one vCPU.
pub(crate) fn make(
    config: &Config,
    ram: &GuestRam,
    (peers, stubs): (&Arc<Peers>, Option<&Arc<Stubs>>),
    physical_bits: u8,
) -> Result<Box<dyn Engine>, (&'static str, EngineError)> {
    match config.engine {
        EngineChoice::Auto | EngineChoice::Translator => {
            let own = Options::default();
            let fit = own.cache_bytes.min(CACHES / peers.count());
            let cache_bytes = config.cache.unwrap_or(fit);
            let options = Options { physical_bits, cache_bytes, ..Options::default() };
            match Translator::among(peers, ram.clone(), options) {
                Ok(mut engine) => {
                    if let (Some(stubs), Some(when)) = (stubs, config.direct) {
                        engine.set_stubs(stubs, when);
                    }
                    Ok(Box::new(engine))
                }
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

/// Starts a process for a guest's programs and takes it down again: whether they can run directly on this host.
pub fn try_direct() -> Result<(), HostError> {
    let memory = Memfd::new("trial", host::PAGE_SIZE)?;
    let stubs = Stubs::start(1)?;
    let stub = stubs.take(&memory)?;
    stub.into_iter().for_each(|stub| stubs.give_back(stub));
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
