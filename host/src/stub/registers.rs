//! A stub's registers, as popf numbers them and as the kernel's interface does.

use libc::user_regs_struct;

use crate::fault::GPR;

/// Registers of a program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Registers {
    /// General registers, by their numbers in instruction encodings.
    pub gpr: [u64; 16],
    /// Instruction pointer.
    pub rip: u64,
    /// RFLAGS. IF stays set, and ID as it was.
    pub rflags: u64,
    /// Bases of FS and GS.
    pub bases: [u64; 2],
    /// ES, CS, SS, DS, FS, GS.
    pub selectors: [u16; 6],
}

impl Registers {
    pub(super) fn of(raw: &user_regs_struct) -> Self {
        let mut registers = Self {
            rip: raw.rip,
            rflags: raw.eflags,
            bases: [raw.fs_base, raw.gs_base],
            selectors: [raw.es, raw.cs, raw.ss, raw.ds, raw.fs, raw.gs].map(|selector| selector as u16),
            ..Self::default()
        };
        let mut raw = *raw;
        for (to, from) in registers.gpr.iter_mut().zip(general(&mut raw)) {
            *to = *from;
        }
        registers
    }

    pub(super) fn store(&self, raw: &mut user_regs_struct) {
        for (to, from) in general(raw).into_iter().zip(self.gpr) {
            *to = from;
        }
        (raw.rip, raw.eflags) = (self.rip, self.rflags);
        [raw.fs_base, raw.gs_base] = self.bases;
        [raw.es, raw.cs, raw.ss, raw.ds, raw.fs, raw.gs] = self.selectors.map(u64::from);
        // No system call to be begun again.
        raw.orig_rax = u64::MAX;
    }
}

/// The general registers by their numbers in instruction encodings.
fn general(raw: &mut user_regs_struct) -> [&mut u64; GPR.len()] {
    [
        &mut raw.rax,
        &mut raw.rcx,
        &mut raw.rdx,
        &mut raw.rbx,
        &mut raw.rsp,
        &mut raw.rbp,
        &mut raw.rsi,
        &mut raw.rdi,
        &mut raw.r8,
        &mut raw.r9,
        &mut raw.r10,
        &mut raw.r11,
        &mut raw.r12,
        &mut raw.r13,
        &mut raw.r14,
        &mut raw.r15,
    ]
}

const _: () = assert!(size_of::<user_regs_struct>() == 27 * 8);
