//! The theorem applied: on which processors a monitor can trap and emulate, and what stands in the way on the
//! others.
//!
//! On a processor without help the monitor runs its guest in ring 3, and a sensitive instruction must trap there.
//! With VMX or SVM the guest has its own ring 0, and another question is asked: does the instruction leave the
//! guest where the monitor wants it to (SDM vol. 3, VMX non-root operation; APM vol. 2 ch. 15.9), or does it act
//! on a copy of the state that is the guest's own and that hardware exchanges at entry and exit (SDM vol. 3, guest-state
//! area; APM vol. 2 ch. 15.5)?

use iced_x86::{Code, Mnemonic};

use super::{Routine, Row, classify, routine};
use crate::{Cr4, Mode};

/// What a monitor can count on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Processor {
    /// How it is called here.
    pub name: &'static str,
    /// Bits of CR4 that the monitor sets while its guest runs.
    pub cr4: Cr4,
    /// CPUID traps in ring 3: MISC_FEATURES_ENABLES bit 0 (SDM vol. 3, CPUID faulting) or HWCR.CpuidUserDis (APM
    /// vol. 2 ch. 3.2.10).
    pub cpuid_faulting: bool,
    /// The guest has rings of its own.
    pub assist: Option<Assist>,
}

/// Whose hardware virtualization.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Assist {
    /// Intel's.
    Vmx,
    /// AMD's.
    Svm,
}

/// The processors that the theorem is asked about.
#[rustfmt::skip]
pub const PROCESSORS: [Processor; 6] = [
    Processor { name: "x86",                          cr4: Cr4::empty(),                cpuid_faulting: false, assist: None },
    Processor { name: "with UMIP",                    cr4: Cr4::UMIP,                   cpuid_faulting: false, assist: None },
    Processor { name: "with UMIP and TSD",            cr4: Cr4::UMIP.union(Cr4::TSD),   cpuid_faulting: false, assist: None },
    Processor { name: "and with CPUID faulting",      cr4: Cr4::UMIP.union(Cr4::TSD),   cpuid_faulting: true,  assist: None },
    Processor { name: "with VMX",                     cr4: Cr4::empty(),                cpuid_faulting: false, assist: Some(Assist::Vmx) },
    Processor { name: "with SVM",                     cr4: Cr4::empty(),                cpuid_faulting: false, assist: Some(Assist::Svm) },
];

/// How an instruction stands to a monitor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Standing {
    /// It is not sensitive.
    Innocuous,
    /// It is sensitive, and privileged.
    Traps,
    /// It is sensitive, and leaves the guest, or does where the monitor asks for it.
    Exits,
    /// It is sensitive, and acts on state that is the guest's own.
    OwnState,
    /// It is sensitive, and popf's guests are not offered it; hardware assistance has switches for such.
    Hidden,
    /// It is sensitive, and does not trap.
    Offends,
}

impl Processor {
    /// How an instruction stands to a monitor on this processor.
    pub fn standing(&self, code: Code, mode: Mode) -> Standing {
        let row = classify(code, mode);
        if !row.is_sensitive() {
            return Standing::Innocuous;
        }
        let info = code.op_code();
        match self.assist {
            Some(Assist::Vmx) if info.intel_vm_exit() || info.intel_may_vm_exit() => Standing::Exits,
            Some(Assist::Svm) if info.amd_vm_exit() || info.amd_may_vm_exit() => Standing::Exits,
            Some(_) if routine(code, mode) == Some(Routine::NotOffered) => Standing::Hidden,
            Some(_) => Standing::OwnState,
            None if row.is_privileged_under(self.cr4) => Standing::Traps,
            None if self.cpuid_faulting && routine(code, mode) == Some(Routine::Cpuid) => Standing::Traps,
            None => Standing::Offends,
        }
    }

    /// The instructions of a mode that stand so, in the order of their names.
    pub fn those(&self, mode: Mode, standing: Standing) -> Vec<Named> {
        let wanted = |named: &Named| self.standing(named.codes[0], mode) == standing;
        instructions(mode).into_iter().filter(wanted).collect()
    }

    /// Theorem 1: whether a monitor can be built on it that lets this mode's code run and is told of everything.
    pub fn is_virtualizable(&self, mode: Mode) -> bool {
        self.those(mode, Standing::Offends).is_empty()
    }
}

/// An instruction as people count them: codes of one mnemonic that are classed alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// Its name.
    pub mnemonic: Mnemonic,
    /// What is known of it in the mode.
    pub row: Row,
    /// Its routine, if it has one.
    pub routine: Option<Routine>,
    /// Its codes; at least one.
    pub codes: Vec<Code>,
}

/// The instructions of a mode, in the order of their names. Those that only a decoder knows that was asked for
/// long-gone processors are left out.
pub fn instructions(mode: Mode) -> Vec<Named> {
    let in_mode = |code: &Code| {
        let info = code.op_code();
        let there = match mode.code_bits() {
            16 => info.mode16(),
            32 => info.mode32(),
            _ => info.mode64(),
        };
        there && info.decoder_option() == 0 && info.is_instruction() && *code != Code::INVALID
    };
    let mut named: Vec<Named> = Vec::new();
    for code in Code::values().filter(in_mode) {
        let (row, routine) = (classify(code, mode), routine(code, mode));
        let mnemonic = code.mnemonic();
        let same =
            |named: &&mut Named| (named.mnemonic, named.row, named.routine) == (mnemonic, row, routine);
        match named.iter_mut().find(same) {
            Some(named) => named.codes.push(code),
            None => named.push(Named { mnemonic, row, routine, codes: vec![code] }),
        }
    }
    named.sort_by_key(|named| format!("{:?}", named.mnemonic));
    named
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(processor: &Processor, mode: Mode) -> Vec<String> {
        let named = processor.those(mode, Standing::Offends);
        named.iter().map(|named| format!("{:?}", named.mnemonic).to_lowercase()).collect()
    }

    #[test]
    fn every_help_takes_offenders_away() {
        let offenders = PROCESSORS.map(|processor| names(&processor, Mode::Long64));
        let gone = |from: usize, to: usize| -> Vec<_> {
            offenders[from].iter().filter(|name| !offenders[to].contains(name)).map(String::as_str).collect()
        };
        assert_eq!(gone(0, 1), ["sgdt", "sidt", "sldt", "smsw", "str"]);
        assert_eq!(gone(1, 2), ["rdtsc", "rdtscp"]);
        assert_eq!(gone(2, 3), ["cpuid"]);
        assert!(offenders[3].iter().any(|name| name == "popfq"), "{:?}", offenders[3]);
        for processor in PROCESSORS {
            let assisted = processor.assist.is_some();
            assert_eq!(processor.is_virtualizable(Mode::Long64), assisted, "{}", processor.name);
            assert_eq!(processor.is_virtualizable(Mode::Protected32), assisted, "{}", processor.name);
        }
    }

    #[test]
    fn assisted_guests_leave_or_have_their_own() {
        let standing = |n: usize, code| PROCESSORS[n].standing(code, Mode::Long64);
        assert_eq!([4, 5].map(|n| standing(n, Code::Cpuid)), [Standing::Exits; 2]);
        assert_eq!([4, 5].map(|n| standing(n, Code::Mov_cr_r64)), [Standing::Exits; 2]);
        assert_eq!(standing(4, Code::Popfq), Standing::OwnState);
        assert_eq!(standing(5, Code::Popfq), Standing::Exits, "SVM can intercept it");
        assert_eq!([4, 5].map(|n| standing(n, Code::Add_rm64_r64)), [Standing::Innocuous; 2]);
    }

    #[test]
    fn modes_have_their_instructions() {
        let has = |mode, wanted| instructions(mode).iter().any(|named| named.mnemonic == wanted);
        assert!(has(Mode::Protected32, Mnemonic::Aaa) && !has(Mode::Long64, Mnemonic::Aaa));
        assert!(has(Mode::Long64, Mnemonic::Swapgs) && !has(Mode::Protected32, Mnemonic::Swapgs));
        let moves = instructions(Mode::Long64).into_iter().filter(|named| named.mnemonic == Mnemonic::Mov);
        assert_eq!(moves.count(), 7, "plain, to and from segment, control and debug registers");
    }
}
