//! The routines of the interpreter.

/// The routine that an instruction needs: one variant per family, which the interpreter matches exhaustively,
/// so that an instruction without routine does not compile.
///
/// Most are sensitive ([`Routine::is_sensitive`]). The rest are innocuous and only not to be had on a 64-bit
/// host in ring 3: 64-bit mode dropped them, or they reach memory by no operand that could be rewritten.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Routine {
    // Devices, interrupts, transfers between rings.
    /// IN.
    In,
    /// OUT.
    Out,
    /// INSB, INSW, INSD, with or without REP.
    Ins,
    /// OUTSB, OUTSW, OUTSD, with or without REP.
    Outs,
    /// CLI.
    Cli,
    /// STI.
    Sti,
    /// PUSHF, PUSHFD, PUSHFQ.
    Pushf,
    /// POPF, POPFD, POPFQ.
    Popf,
    /// HLT.
    Hlt,
    /// INT n.
    Int,
    /// INT3.
    Int3,
    /// INTO; not in 64-bit mode.
    Into,
    /// INT1 (ICEBP).
    Int1,
    /// IRET, IRETD, IRETQ.
    Iret,
    /// SYSCALL.
    Syscall,
    /// SYSRET, to 32-bit or 64-bit code.
    Sysret,
    /// SYSENTER.
    Sysenter,
    /// SYSEXIT, to 32-bit or 64-bit code.
    Sysexit,
    /// VMCALL and VMMCALL; #UD unless popf answers hypercalls.
    Hypercall,

    // Segments and descriptor tables.
    /// LGDT.
    Lgdt,
    /// LIDT.
    Lidt,
    /// SGDT.
    Sgdt,
    /// SIDT.
    Sidt,
    /// LLDT; #UD in real and virtual-8086 mode, as are SLDT, LTR, STR, LAR, LSL, VERR and VERW.
    Lldt,
    /// SLDT.
    Sldt,
    /// LTR.
    Ltr,
    /// STR.
    Str,
    /// LAR.
    Lar,
    /// LSL.
    Lsl,
    /// VERR.
    Verr,
    /// VERW.
    Verw,
    /// MOV r/m, Sreg.
    MovFromSegment,
    /// MOV Sreg, r/m.
    MovToSegment,
    /// PUSH Sreg.
    PushSegment,
    /// POP Sreg.
    PopSegment,
    /// LDS, LES, LFS, LGS, LSS.
    LoadFarPointer,
    /// CALL far, direct or through memory.
    CallFar,
    /// JMP far, direct or through memory.
    JmpFar,
    /// RETF, with or without immediate.
    RetFar,
    /// SWAPGS.
    Swapgs,
    /// RDFSBASE.
    Rdfsbase,
    /// RDGSBASE.
    Rdgsbase,
    /// WRFSBASE.
    Wrfsbase,
    /// WRGSBASE.
    Wrgsbase,

    // Control registers, MSRs, caches, identification.
    /// SMSW.
    Smsw,
    /// LMSW.
    Lmsw,
    /// CLTS.
    Clts,
    /// MOV r, CRn, CR8 included.
    MovFromCr,
    /// MOV CRn, r, CR8 included.
    MovToCr,
    /// MOV r, DRn.
    MovFromDr,
    /// MOV DRn, r.
    MovToDr,
    /// INVLPG.
    Invlpg,
    /// INVD.
    Invd,
    /// WBINVD, WBNOINVD.
    Wbinvd,
    /// RDMSR.
    Rdmsr,
    /// WRMSR.
    Wrmsr,
    /// RDTSC.
    Rdtsc,
    /// RDTSCP.
    Rdtscp,
    /// RDPID.
    Rdpid,
    /// RDPMC.
    Rdpmc,
    /// CPUID.
    Cpuid,
    /// XGETBV.
    Xgetbv,
    /// XSETBV.
    Xsetbv,
    /// XSAVE, XSAVEOPT, XSAVEC and their 64-bit forms. A host may run one natively if EDX:EAX is first limited
    /// to the guest's XCR0 and CR0.TS and CR4.OSXSAVE have been looked at.
    Xsave,
    /// XRSTOR and its 64-bit form; as [`Self::Xsave`], but XSTATE_BV too must lie within the guest's XCR0.
    Xrstor,
    /// CLAC.
    Clac,
    /// STAC.
    Stac,

    // Nothing to carry out.
    /// An instruction CPUID does not offer, whatever the host has: #UD.
    NotOffered,
    /// No instruction, or one whose purpose it is: #UD.
    Undefined,
    /// Does nothing in any state a guest can reach, and reaches no memory.
    Nop,

    // Innocuous, but not for this host.
    /// AAA; not in 64-bit mode.
    Aaa,
    /// AAS; not in 64-bit mode.
    Aas,
    /// AAM; not in 64-bit mode.
    Aam,
    /// AAD; not in 64-bit mode.
    Aad,
    /// DAA; not in 64-bit mode.
    Daa,
    /// DAS; not in 64-bit mode.
    Das,
    /// SALC: AL becomes 0 or FFh by CF; not in 64-bit mode.
    Salc,
    /// PUSHA, PUSHAD; not in 64-bit mode.
    Pusha,
    /// POPA, POPAD; not in 64-bit mode.
    Popa,
    /// BOUND; not in 64-bit mode.
    Bound,
    /// ARPL; not in 64-bit mode, and #UD in real and virtual-8086 mode.
    Arpl,
    /// ENTER: a chain of pushes.
    Enter,
    /// CLZERO: writes the cache line at rAX.
    Clzero,
}

impl Routine {
    /// Whether the instructions of this routine are sensitive in the sense of the theorem. `false` for the
    /// routines that do nothing or raise #UD: they serve instructions of every class, which only the
    /// instruction's [`Row`](super::Row) tells apart.
    pub const fn is_sensitive(self) -> bool {
        (self as u8) < Self::NotOffered as u8
    }
}
