//! The feature policy: one row per CPUID bit, in the order of the manuals (SDM vol. 2 CPUID; APM vol. 3 app.
//! E). A bit without a row is hidden, because popf does not know what it would promise.

use Offer::{Avx, Avx512, Computed, Emulated, EmulatedBy, Hidden, Native};
use Register::{Eax, Ebx, Ecx, Edx};

use super::Vendor;

/// A register that CPUID returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
#[allow(missing_docs)]
pub enum Register {
    Eax = 0,
    Ebx = 1,
    Ecx = 2,
    Edx = 3,
}

/// What the guest sees of a feature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    /// What the host has: the instructions run natively, or it is a fact about the host.
    Native,
    /// As [`Self::Native`], if the host's kernel enabled AVX state.
    Avx,
    /// As [`Self::Native`], if the host's kernel enabled AVX-512 state.
    Avx512,
    /// Always there: popf does it, whatever the host can.
    Emulated,
    /// The same, where the maker is this one: another's guests are told in another way.
    EmulatedBy(Vendor),
    /// Filled in from the machine's shape or the vCPU's registers.
    Computed,
    /// Never there, for this reason.
    Hidden(&'static str),
}

/// A feature bit and what becomes of it.
#[derive(Clone, Copy, Debug)]
pub struct Feature {
    /// CPUID leaf.
    pub leaf: u32,
    /// CPUID subleaf.
    pub subleaf: u32,
    /// Register.
    pub register: Register,
    /// Bit in it.
    pub bit: u32,
    /// Name in the manuals.
    pub name: &'static str,
    /// Policy.
    pub offer: Offer,
}

const fn at(leaf: u32, register: Register, bit: u32, name: &'static str, offer: Offer) -> Feature {
    Feature { leaf, subleaf: 0, register, bit, name, offer }
}

const fn sub(subleaf: u32, register: Register, bit: u32, name: &'static str, offer: Offer) -> Feature {
    Feature { leaf: 7, subleaf, register, bit, name, offer }
}

/// A guest's own defence against its processor's speculation, which has no hold on the real processor: a
/// translated RET is no RET, and VERW clears no buffer. Said to be needless, so that no time goes into it; what
/// protects one guest process from another is the host's defence of popf's threads.
const MOOT: Offer = Emulated;
/// The same on Intel: the reasons stand in [`crate::msr::arch_capabilities`]. It says that IBRS may stay on, so there is IBRS; and Linux
/// asks for a bit that turns branch history off before it believes BHI_NO.
const MOOT_INTEL: Offer = EmulatedBy(Vendor::Intel);
/// The same in a leaf that Intel's processors have too, without these bits in it.
const MOOT_AMD: Offer = EmulatedBy(Vendor::Amd);
const NO_VMX: Offer = Hidden("the guest gets no VMX or SVM of its own yet");
const NO_SMM: Offer = Hidden("there is no system-management mode");
const NO_DEBUG_STORE: Offer = Hidden("branch and event tracing belong to the host");
const NO_COUNTERS: Offer = Hidden("performance counters belong to the host");
const NO_POWER: Offer = Hidden("clock, voltage and heat belong to the host");
const NO_TSX: Offer = Hidden("a transaction would end at every translator callout");
const NO_SPEC: Offer = Hidden("predictors belong to the host, which mitigates for all; no MSR reaches them");
const NO_SGX: Offer = Hidden("enclaves need the host's kernel");
const NO_CET: Offer = Hidden("translated code has no shadow stack of its own");
const NO_PKU: Offer = Hidden("the page walk knows no protection keys");
const NO_QOS: Offer = Hidden("cache and bandwidth shares belong to the host");
const NO_AMX: Offer = Hidden("the host's kernel gives tile state on request only, and it is not saved");
const NO_MPX: Offer = Hidden("bounds registers are gone from new processors and not saved");
const NO_ENCRYPTION: Offer = Hidden("memory encryption belongs to the host");
const NO_RING0: Offer = Hidden("the interpreter has no routine for it");
const NO_OPERAND: Offer = Hidden("it writes where a register says, which the translator does not rewrite");

/// The policy.
#[rustfmt::skip]
pub static FEATURES: &[Feature] = &[
    at(1, Ecx, 0, "SSE3", Native),
    at(1, Ecx, 1, "PCLMULQDQ", Native),
    at(1, Ecx, 2, "DTES64", NO_DEBUG_STORE),
    at(1, Ecx, 3, "MONITOR", Hidden("no routine watches memory; HLT sleeps")),
    at(1, Ecx, 4, "DS-CPL", NO_DEBUG_STORE),
    at(1, Ecx, 5, "VMX", NO_VMX),
    at(1, Ecx, 6, "SMX", NO_SMM),
    at(1, Ecx, 7, "EIST", NO_POWER),
    at(1, Ecx, 8, "TM2", NO_POWER),
    at(1, Ecx, 9, "SSSE3", Native),
    at(1, Ecx, 10, "CNXT-ID", Hidden("a model's own MSR")),
    at(1, Ecx, 11, "SDBG", Hidden("silicon debugging belongs to the host")),
    at(1, Ecx, 12, "FMA", Avx),
    at(1, Ecx, 13, "CMPXCHG16B", Native),
    at(1, Ecx, 14, "xTPR", Hidden("a model's own MSR")),
    at(1, Ecx, 15, "PDCM", NO_COUNTERS),
    at(1, Ecx, 17, "PCID", Hidden("the software TLB keeps no process contexts yet")),
    at(1, Ecx, 18, "DCA", Hidden("no device can put data into the host's cache")),
    at(1, Ecx, 19, "SSE4.1", Native),
    at(1, Ecx, 20, "SSE4.2", Native),
    at(1, Ecx, 21, "x2APIC", Emulated),
    at(1, Ecx, 22, "MOVBE", Native),
    at(1, Ecx, 23, "POPCNT", Native),
    at(1, Ecx, 24, "TSC-Deadline", Emulated),
    at(1, Ecx, 25, "AESNI", Native),
    at(1, Ecx, 26, "XSAVE", Native),
    at(1, Ecx, 27, "OSXSAVE", Computed),
    at(1, Ecx, 28, "AVX", Avx),
    at(1, Ecx, 29, "F16C", Avx),
    at(1, Ecx, 30, "RDRAND", Native),
    at(1, Ecx, 31, "hypervisor", Emulated),
    at(1, Edx, 0, "FPU", Native),
    at(1, Edx, 1, "VME", Emulated),
    at(1, Edx, 2, "DE", Emulated),
    at(1, Edx, 3, "PSE", Emulated),
    at(1, Edx, 4, "TSC", Emulated),
    at(1, Edx, 5, "MSR", Emulated),
    at(1, Edx, 6, "PAE", Emulated),
    at(1, Edx, 7, "MCE", Emulated),
    at(1, Edx, 8, "CX8", Native),
    at(1, Edx, 9, "APIC", Emulated),
    at(1, Edx, 11, "SEP", Emulated),
    at(1, Edx, 12, "MTRR", Emulated),
    at(1, Edx, 13, "PGE", Emulated),
    at(1, Edx, 14, "MCA", Emulated),
    at(1, Edx, 15, "CMOV", Native),
    at(1, Edx, 16, "PAT", Emulated),
    at(1, Edx, 17, "PSE-36", Emulated),
    at(1, Edx, 18, "PSN", Hidden("a serial number tells hosts apart")),
    at(1, Edx, 19, "CLFSH", Native),
    at(1, Edx, 21, "DS", NO_DEBUG_STORE),
    at(1, Edx, 22, "ACPI", NO_POWER),
    at(1, Edx, 23, "MMX", Native),
    at(1, Edx, 24, "FXSR", Native),
    at(1, Edx, 25, "SSE", Native),
    at(1, Edx, 26, "SSE2", Native),
    at(1, Edx, 27, "SS", Native),
    at(1, Edx, 28, "HTT", Computed),
    at(1, Edx, 29, "TM", NO_POWER),
    at(1, Edx, 31, "PBE", NO_COUNTERS),

    at(6, Eax, 0, "DTS", NO_POWER),
    at(6, Eax, 1, "Turbo", NO_POWER),
    at(6, Eax, 2, "ARAT", Emulated),
    at(6, Eax, 7, "HWP", NO_POWER),
    at(6, Ecx, 0, "APERF/MPERF", NO_POWER),
    at(6, Ecx, 3, "EPB", NO_POWER),

    sub(0, Ebx, 0, "FSGSBASE", Emulated),
    sub(0, Ebx, 1, "TSC_ADJUST", Emulated),
    sub(0, Ebx, 2, "SGX", NO_SGX),
    sub(0, Ebx, 3, "BMI1", Native),
    sub(0, Ebx, 4, "HLE", NO_TSX),
    sub(0, Ebx, 5, "AVX2", Avx),
    sub(0, Ebx, 6, "FDP_EXCPTN_ONLY", Native),
    sub(0, Ebx, 7, "SMEP", Emulated),
    sub(0, Ebx, 8, "BMI2", Native),
    sub(0, Ebx, 9, "ERMS", Native),
    sub(0, Ebx, 10, "INVPCID", Hidden("pointless without PCID")),
    sub(0, Ebx, 11, "RTM", NO_TSX),
    sub(0, Ebx, 12, "RDT-M", NO_QOS),
    sub(0, Ebx, 13, "FCS/FDS deprecated", Native),
    sub(0, Ebx, 14, "MPX", NO_MPX),
    sub(0, Ebx, 15, "RDT-A", NO_QOS),
    sub(0, Ebx, 16, "AVX512F", Avx512),
    sub(0, Ebx, 17, "AVX512DQ", Avx512),
    sub(0, Ebx, 18, "RDSEED", Native),
    sub(0, Ebx, 19, "ADX", Native),
    sub(0, Ebx, 20, "SMAP", Emulated),
    sub(0, Ebx, 21, "AVX512_IFMA", Avx512),
    sub(0, Ebx, 22, "PCOMMIT", Hidden("never made")),
    sub(0, Ebx, 23, "CLFLUSHOPT", Native),
    sub(0, Ebx, 24, "CLWB", Native),
    sub(0, Ebx, 25, "Processor Trace", NO_DEBUG_STORE),
    sub(0, Ebx, 26, "AVX512PF", Avx512),
    sub(0, Ebx, 27, "AVX512ER", Avx512),
    sub(0, Ebx, 28, "AVX512CD", Avx512),
    sub(0, Ebx, 29, "SHA", Native),
    sub(0, Ebx, 30, "AVX512BW", Avx512),
    sub(0, Ebx, 31, "AVX512VL", Avx512),
    sub(0, Ecx, 0, "PREFETCHWT1", Native),
    sub(0, Ecx, 1, "AVX512_VBMI", Avx512),
    sub(0, Ecx, 2, "UMIP", Emulated),
    sub(0, Ecx, 3, "PKU", NO_PKU),
    sub(0, Ecx, 4, "OSPKE", NO_PKU),
    sub(0, Ecx, 5, "WAITPKG", Hidden("no routine watches memory; HLT sleeps")),
    sub(0, Ecx, 6, "AVX512_VBMI2", Avx512),
    sub(0, Ecx, 7, "CET_SS", NO_CET),
    sub(0, Ecx, 8, "GFNI", Native),
    sub(0, Ecx, 9, "VAES", Avx),
    sub(0, Ecx, 10, "VPCLMULQDQ", Avx),
    sub(0, Ecx, 11, "AVX512_VNNI", Avx512),
    sub(0, Ecx, 12, "AVX512_BITALG", Avx512),
    sub(0, Ecx, 13, "TME_EN", NO_ENCRYPTION),
    sub(0, Ecx, 14, "AVX512_VPOPCNTDQ", Avx512),
    sub(0, Ecx, 16, "LA57", Emulated),
    sub(0, Ecx, 22, "RDPID", Emulated),
    sub(0, Ecx, 23, "KL", Hidden("wrapping keys belong to the host")),
    sub(0, Ecx, 24, "BUS_LOCK_DETECT", NO_RING0),
    sub(0, Ecx, 25, "CLDEMOTE", Native),
    sub(0, Ecx, 27, "MOVDIRI", Native),
    sub(0, Ecx, 28, "MOVDIR64B", NO_OPERAND),
    sub(0, Ecx, 29, "ENQCMD", Hidden("work queues need the host's kernel")),
    sub(0, Ecx, 30, "SGX_LC", NO_SGX),
    sub(0, Ecx, 31, "PKS", NO_PKU),
    sub(0, Edx, 1, "SGX-KEYS", NO_SGX),
    sub(0, Edx, 2, "AVX512_4VNNIW", Avx512),
    sub(0, Edx, 3, "AVX512_4FMAPS", Avx512),
    sub(0, Edx, 4, "FSRM", Native),
    sub(0, Edx, 5, "UINTR", Hidden("user interrupts need the host's kernel")),
    sub(0, Edx, 8, "AVX512_VP2INTERSECT", Avx512),
    sub(0, Edx, 9, "SRBDS_CTRL", NO_SPEC),
    sub(0, Edx, 10, "MD_CLEAR", Hidden("VERW is interpreted and clears no buffers")),
    sub(0, Edx, 11, "RTM_ALWAYS_ABORT", NO_TSX),
    sub(0, Edx, 13, "RTM_FORCE_ABORT", NO_TSX),
    sub(0, Edx, 14, "SERIALIZE", Native),
    sub(0, Edx, 15, "hybrid", Hidden("vCPUs are all alike")),
    sub(0, Edx, 16, "TSXLDTRK", NO_TSX),
    sub(0, Edx, 18, "PCONFIG", NO_ENCRYPTION),
    sub(0, Edx, 19, "architectural LBRs", NO_COUNTERS),
    sub(0, Edx, 20, "CET_IBT", NO_CET),
    sub(0, Edx, 22, "AMX-BF16", NO_AMX),
    sub(0, Edx, 23, "AVX512_FP16", Avx512),
    sub(0, Edx, 24, "AMX-TILE", NO_AMX),
    sub(0, Edx, 25, "AMX-INT8", NO_AMX),
    sub(0, Edx, 26, "IBRS and IBPB", MOOT_INTEL),
    sub(0, Edx, 27, "STIBP", NO_SPEC),
    sub(0, Edx, 28, "L1D_FLUSH", NO_SPEC),
    sub(0, Edx, 29, "IA32_ARCH_CAPABILITIES", MOOT_INTEL),
    sub(0, Edx, 30, "IA32_CORE_CAPABILITIES", Hidden("a model's own MSR")),
    sub(0, Edx, 31, "SSBD", NO_SPEC),
    sub(1, Eax, 0, "SHA512", Avx),
    sub(1, Eax, 1, "SM3", Avx),
    sub(1, Eax, 2, "SM4", Avx),
    sub(1, Eax, 3, "RAO-INT", Native),
    sub(1, Eax, 4, "AVX-VNNI", Avx),
    sub(1, Eax, 5, "AVX512_BF16", Avx512),
    sub(1, Eax, 6, "LASS", NO_RING0),
    sub(1, Eax, 7, "CMPccXADD", Native),
    sub(1, Eax, 8, "ArchPerfmonExt", NO_COUNTERS),
    sub(1, Eax, 10, "FZRM", Native),
    sub(1, Eax, 11, "FSRS", Native),
    sub(1, Eax, 12, "FSRC", Native),
    sub(1, Eax, 17, "FRED", NO_RING0),
    sub(1, Eax, 18, "LKGS", NO_RING0),
    sub(1, Eax, 19, "WRMSRNS", NO_RING0),
    sub(1, Eax, 20, "NMI_SRC", NO_RING0),
    sub(1, Eax, 21, "AMX-FP16", NO_AMX),
    sub(1, Eax, 22, "HRESET", NO_RING0),
    sub(1, Eax, 23, "AVX-IFMA", Avx),
    sub(1, Eax, 26, "LAM", Hidden("the software TLB compares whole addresses")),
    sub(1, Eax, 27, "MSRLIST", NO_RING0),
    sub(1, Edx, 4, "AVX-VNNI-INT8", Avx),
    sub(1, Edx, 5, "AVX-NE-CONVERT", Avx),
    sub(1, Edx, 8, "AMX-COMPLEX", NO_AMX),
    sub(1, Edx, 10, "AVX-VNNI-INT16", Avx),
    sub(1, Edx, 14, "PREFETCHI", Native),
    sub(1, Edx, 15, "USER_MSR", NO_RING0),
    sub(1, Edx, 18, "CET_SSS", NO_CET),
    sub(1, Edx, 19, "AVX10", Hidden("the decoder does not know it")),
    sub(1, Edx, 21, "APX_F", Hidden("the decoder does not know it")),
    sub(2, Edx, 0, "PSFD", NO_SPEC),
    sub(2, Edx, 1, "IPRED_CTRL", NO_SPEC),
    sub(2, Edx, 2, "RRSBA_CTRL", NO_SPEC),
    sub(2, Edx, 3, "DDPD_U", NO_SPEC),
    sub(2, Edx, 4, "BHI_CTRL", MOOT_INTEL),
    sub(2, Edx, 5, "MCDT_NO", Native),

    at(0x8000_0001, Ecx, 0, "LAHF/SAHF", Native),
    at(0x8000_0001, Ecx, 1, "CmpLegacy", Computed),
    at(0x8000_0001, Ecx, 2, "SVM", NO_VMX),
    at(0x8000_0001, Ecx, 3, "ExtApicSpace", Hidden("the local APIC has Intel's registers only")),
    at(0x8000_0001, Ecx, 4, "AltMovCr8", Hidden("LOCK MOV CR0 stays #UD")),
    at(0x8000_0001, Ecx, 5, "ABM/LZCNT", Native),
    at(0x8000_0001, Ecx, 6, "SSE4A", Native),
    at(0x8000_0001, Ecx, 7, "MisAlignSse", Native),
    at(0x8000_0001, Ecx, 8, "PREFETCHW", Native),
    at(0x8000_0001, Ecx, 9, "OSVW", Native),
    at(0x8000_0001, Ecx, 10, "IBS", NO_COUNTERS),
    at(0x8000_0001, Ecx, 11, "XOP", Avx),
    at(0x8000_0001, Ecx, 12, "SKINIT", NO_VMX),
    at(0x8000_0001, Ecx, 13, "WDT", Hidden("the watchdog belongs to the host")),
    at(0x8000_0001, Ecx, 15, "LWP", NO_COUNTERS),
    at(0x8000_0001, Ecx, 16, "FMA4", Avx),
    at(0x8000_0001, Ecx, 17, "TCE", Native),
    at(0x8000_0001, Ecx, 21, "TBM", Native),
    at(0x8000_0001, Ecx, 22, "TopologyExtensions", Computed),
    at(0x8000_0001, Ecx, 23, "PerfCtrExtCore", NO_COUNTERS),
    at(0x8000_0001, Ecx, 24, "PerfCtrExtNB", NO_COUNTERS),
    at(0x8000_0001, Ecx, 26, "DataBreakpointExtension", Hidden("no routine knows the mask MSRs")),
    at(0x8000_0001, Ecx, 27, "PerfTsc", NO_COUNTERS),
    at(0x8000_0001, Ecx, 28, "PerfCtrExtLLC", NO_COUNTERS),
    at(0x8000_0001, Ecx, 29, "MONITORX", Hidden("no routine watches memory; HLT sleeps")),
    at(0x8000_0001, Ecx, 30, "AddrMaskExt", Hidden("no routine knows the mask MSRs")),
    at(0x8000_0001, Edx, 11, "SYSCALL", Emulated),
    at(0x8000_0001, Edx, 20, "NX", Emulated),
    at(0x8000_0001, Edx, 22, "MMXEXT", Native),
    at(0x8000_0001, Edx, 25, "FFXSR", Hidden("FXSAVE runs natively, where EFER.FFXSR is the host's")),
    at(0x8000_0001, Edx, 26, "Page1GB", Emulated),
    at(0x8000_0001, Edx, 27, "RDTSCP", Emulated),
    at(0x8000_0001, Edx, 29, "LM", Emulated),
    at(0x8000_0001, Edx, 30, "3DNowExt", Native),
    at(0x8000_0001, Edx, 31, "3DNow", Native),
    at(0x8000_0007, Edx, 0, "TS", NO_POWER),
    at(0x8000_0007, Edx, 7, "HwPstate", NO_POWER),
    at(0x8000_0007, Edx, 8, "invariant TSC", Native),
    at(0x8000_0007, Edx, 9, "CPB", NO_POWER),
    at(0x8000_0007, Edx, 10, "EffFreqRO", NO_POWER),
    at(0x8000_0008, Ebx, 0, "CLZERO", Native),
    at(0x8000_0008, Ebx, 1, "InstRetCntMsr", NO_COUNTERS),
    at(0x8000_0008, Ebx, 2, "RstrFpErrPtrs", Native),
    at(0x8000_0008, Ebx, 3, "INVLPGB", NO_RING0),
    at(0x8000_0008, Ebx, 4, "RDPRU", NO_COUNTERS),
    at(0x8000_0008, Ebx, 6, "BE", NO_QOS),
    at(0x8000_0008, Ebx, 8, "MCOMMIT", Hidden("EFER.MCOMMIT is the host's")),
    at(0x8000_0008, Ebx, 9, "WBNOINVD", Emulated),
    at(0x8000_0008, Ebx, 12, "IBPB", NO_SPEC),
    at(0x8000_0008, Ebx, 13, "INT_WBINVD", Native),
    at(0x8000_0008, Ebx, 14, "IBRS", NO_SPEC),
    at(0x8000_0008, Ebx, 15, "STIBP", NO_SPEC),
    at(0x8000_0008, Ebx, 16, "IbrsAlwaysOn", NO_SPEC),
    at(0x8000_0008, Ebx, 17, "StibpAlwaysOn", NO_SPEC),
    at(0x8000_0008, Ebx, 18, "IbrsPreferred", NO_SPEC),
    at(0x8000_0008, Ebx, 19, "IbrsSameMode", NO_SPEC),
    at(0x8000_0008, Ebx, 20, "EferLmsleUnsupported", Emulated),
    at(0x8000_0008, Ebx, 21, "INVLPGBnestedPages", NO_RING0),
    at(0x8000_0008, Ebx, 23, "PPIN", Hidden("a serial number tells hosts apart")),
    at(0x8000_0008, Ebx, 24, "SSBD", NO_SPEC),
    at(0x8000_0008, Ebx, 25, "SsbdVirtSpecCtrl", NO_SPEC),
    at(0x8000_0008, Ebx, 26, "SsbdNotRequired", MOOT_AMD),
    at(0x8000_0008, Ebx, 27, "CPPC", NO_POWER),
    at(0x8000_0008, Ebx, 28, "PSFD", NO_SPEC),
    at(0x8000_0008, Ebx, 29, "BTC_NO", MOOT_AMD),
    at(0x8000_0008, Ebx, 30, "IBPB_RET", NO_SPEC),
    at(0x8000_0021, Eax, 0, "NoNestedDataBp", Native),
    at(0x8000_0021, Eax, 2, "LFenceAlwaysSerializing", Native),
    at(0x8000_0021, Eax, 3, "SmmPgCfgLock", NO_SMM),
    at(0x8000_0021, Eax, 6, "NullSelectClearsBase", Emulated),
    at(0x8000_0021, Eax, 7, "UpperAddressIgnore", Hidden("the software TLB compares whole addresses")),
    at(0x8000_0021, Eax, 8, "AutomaticIBRS", MOOT),
    at(0x8000_0021, Eax, 9, "NoSmmCtlMSR", Emulated),
    at(0x8000_0021, Eax, 10, "FSRS", Native),
    at(0x8000_0021, Eax, 11, "FSRC", Native),
    at(0x8000_0021, Eax, 13, "PrefetchCtlMsr", Hidden("prefetchers belong to the host")),
    at(0x8000_0021, Eax, 17, "CpuidUserDis", NO_RING0),
    at(0x8000_0021, Eax, 18, "EPSF", NO_SPEC),
    at(0x8000_0021, Eax, 27, "SBPB", NO_SPEC),
    at(0x8000_0021, Eax, 28, "IBPB_BRTYPE", NO_SPEC),
    at(0x8000_0021, Eax, 29, "SRSO_NO", MOOT),
    at(0x8000_0021, Eax, 30, "SRSO_USER_KERNEL_NO", MOOT),
    at(0x8000_0021, Ecx, 1, "TSA_SQ_NO", MOOT),
    at(0x8000_0021, Ecx, 2, "TSA_L1_NO", MOOT),
];
