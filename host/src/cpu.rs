//! The processor below: CPUID, the time stamp counter, the feature list of `popf doctor`.
//!
//! Figures by the Intel SDM, volume 2A "CPUID", and AMD's APM, volume 3, appendix E.
#![allow(unsafe_code)] // CPUID, XGETBV and RDTSC are instructions of their own.

use std::arch::x86_64::{__cpuid_count, _rdtsc};
use std::fs;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// What CPUID returns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cpuid {
    /// EAX.
    pub eax: u32,
    /// EBX.
    pub ebx: u32,
    /// ECX.
    pub ecx: u32,
    /// EDX.
    pub edx: u32,
}

/// Executes CPUID. Slow where we are a guest ourselves: some 10,000 cycles.
pub fn cpuid(leaf: u32, subleaf: u32) -> Cpuid {
    // SAFETY: every x86-64 processor has CPUID. (Newer compilers know, and want no `unsafe`.)
    #[allow(unused_unsafe)]
    let result = unsafe { __cpuid_count(leaf, subleaf) };
    Cpuid { eax: result.eax, ebx: result.ebx, ecx: result.ecx, edx: result.edx }
}

/// As [`cpuid`], all zero for a leaf beyond the highest of its range, where Intel's processors answer with another
/// leaf's data.
pub fn cpuid_checked(leaf: u32, subleaf: u32) -> Cpuid {
    let base = leaf & 0xffff_0000;
    let highest = cpuid(base, 0).eax;
    if (base..=highest).contains(&leaf) { cpuid(leaf, subleaf) } else { Cpuid::default() }
}

/// The state components the host has switched on (XCR0); 0 without XSAVE.
pub fn xcr0() -> u64 {
    if cpuid_checked(1, 0).ecx & (1 << 27) == 0 {
        return 0;
    }
    let (low, high): (u32, u32);
    // SAFETY: OSXSAVE was checked, so XGETBV is there.
    unsafe {
        std::arch::asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high, options(nomem, nostack));
    }
    u64::from(high) << 32 | u64::from(low)
}

/// The time stamp counter.
#[inline]
pub fn rdtsc() -> u64 {
    // SAFETY: Linux leaves RDTSC to user code.
    unsafe { _rdtsc() }
}

/// How often the time stamp counter counts in a second. Found out once, see [`TscSource`].
pub fn tsc_hz() -> u64 {
    tsc_frequency().0
}

/// Where a TSC frequency comes from, the most trustworthy first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TscSource {
    /// The kernel says it.
    Kernel,
    /// The hypervisor's timing leaf 0x40000010.
    Hypervisor,
    /// CPUID leaf 0x15: crystal frequency and ratio.
    Crystal,
    /// Counted against `CLOCK_MONOTONIC`.
    Measured,
}

/// The frequency and where it comes from.
pub fn tsc_frequency() -> (u64, TscSource) {
    static FREQUENCY: OnceLock<(u64, TscSource)> = OnceLock::new();
    *FREQUENCY.get_or_init(|| {
        let told = [
            (tsc_from_kernel(), TscSource::Kernel),
            (tsc_from_hypervisor(), TscSource::Hypervisor),
            (tsc_from_crystal(), TscSource::Crystal),
        ];
        let measured = measure_tsc();
        for (hz, source) in told {
            // Believed only if the clock agrees: hypervisors and firmware have been wrong before.
            if let Some(hz) = hz
                && hz.abs_diff(measured) <= measured / 500
            {
                return (hz, source);
            }
        }
        (measured, TscSource::Measured)
    })
}

fn tsc_from_kernel() -> Option<u64> {
    // Not in every kernel; in kHz.
    let text = fs::read_to_string("/sys/devices/system/cpu/cpu0/tsc_freq_khz").ok()?;
    text.trim().parse::<u64>().ok()?.checked_mul(1000)
}

fn tsc_from_hypervisor() -> Option<u64> {
    let under_hypervisor = cpuid_checked(1, 0).ecx & (1 << 31) != 0;
    let khz = if under_hypervisor { cpuid_checked(0x4000_0010, 0).eax } else { 0 };
    (khz > 0).then(|| u64::from(khz) * 1000)
}

fn tsc_from_crystal() -> Option<u64> {
    let Cpuid { eax: denominator, ebx: numerator, ecx: crystal_hz, .. } = cpuid_checked(0x15, 0);
    if denominator == 0 || numerator == 0 || crystal_hz == 0 {
        return None;
    }
    // A product of two 32-bit numbers.
    Some(u64::from(crystal_hz) * u64::from(numerator) / u64::from(denominator))
}

/// Counts for some 12 ms. An interruption between the two readings of a pair is what spoils such a measurement,
/// so each end is the tightest of several pairs.
fn measure_tsc() -> u64 {
    let begin = tight_pair();
    // The wait itself need not be exact, only read exactly.
    std::thread::sleep(Duration::from_millis(12));
    let end = tight_pair();
    let nanoseconds = (end.0 - begin.0).as_nanos().max(1);
    let hz = u128::from(end.1.wrapping_sub(begin.1)) * 1_000_000_000 / nanoseconds;
    // 0 would divide; no counter is so slow.
    u64::try_from(hz).unwrap_or(u64::MAX).max(1)
}

/// A moment and the counter's value then, off by at most half the tightest distance seen.
fn tight_pair() -> (Instant, u64) {
    let mut best = (u64::MAX, Instant::now(), 0);
    for _ in 0..32 {
        let before = rdtsc();
        let now = Instant::now();
        let width = rdtsc().wrapping_sub(before);
        if width < best.0 {
            best = (width, now, before.wrapping_add(width / 2));
        }
    }
    (best.1, best.2)
}

/// The processor's name, as in `/proc/cpuinfo`.
pub fn brand() -> String {
    let mut name = Vec::with_capacity(48);
    for leaf in 0x8000_0002..=0x8000_0004 {
        let Cpuid { eax, ebx, ecx, edx } = cpuid_checked(leaf, 0);
        name.extend([eax, ebx, ecx, edx].into_iter().flat_map(u32::to_le_bytes));
    }
    let text: String = name.iter().take_while(|&&byte| byte != 0).map(|&byte| char::from(byte)).collect();
    text.trim().to_owned()
}

/// The maker: `GenuineIntel`, `AuthenticAMD` ...
pub fn vendor() -> String {
    let Cpuid { ebx, ecx, edx, .. } = cpuid(0, 0);
    let bytes = [ebx, edx, ecx].into_iter().flat_map(u32::to_le_bytes);
    bytes.map(char::from).filter(char::is_ascii_graphic).collect()
}

/// What popf wants of a feature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// The translator does not run without it.
    Required,
    /// The guest gets it if it is there.
    Passed,
    /// Of interest to another engine.
    Other,
}

/// A feature and whether the host has it (switched on by the kernel, where that is needed).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Feature {
    /// Its name as in `/proc/cpuinfo`.
    pub name: &'static str,
    /// What popf wants of it.
    pub need: Need,
    /// Whether it is there.
    pub present: bool,
}

#[derive(Clone, Copy)]
enum Register {
    Eax,
    Ebx,
    Ecx,
    Edx,
}

/// XCR0 bits for SSE and AVX state, and for AVX-512's besides.
const AVX_STATE: u64 = 0b110;
const AVX512_STATE: u64 = 0b1110_0110;

/// Name, need, leaf, subleaf, register, bit, XCR0 bits.
type Row = (&'static str, Need, u32, u32, Register, u32, u64);

#[rustfmt::skip]
const FEATURES: &[Row] = &[
    ("cx8",          Need::Required, 1,           0, Register::Edx,  8, 0),
    ("cmov",         Need::Required, 1,           0, Register::Edx, 15, 0),
    ("fxsr",         Need::Required, 1,           0, Register::Edx, 24, 0),
    ("sse2",         Need::Required, 1,           0, Register::Edx, 26, 0),
    ("cx16",         Need::Required, 1,           0, Register::Ecx, 13, 0),
    ("lahf_lm",      Need::Required, 0x8000_0001, 0, Register::Ecx,  0, 0),
    ("syscall",      Need::Passed,   0x8000_0001, 0, Register::Edx, 11, 0),
    ("nx",           Need::Passed,   0x8000_0001, 0, Register::Edx, 20, 0),
    ("rdtscp",       Need::Passed,   0x8000_0001, 0, Register::Edx, 27, 0),
    ("constant_tsc", Need::Passed,   0x8000_0007, 0, Register::Edx,  8, 0),
    ("sse3",         Need::Passed,   1,           0, Register::Ecx,  0, 0),
    ("pclmulqdq",    Need::Passed,   1,           0, Register::Ecx,  1, 0),
    ("ssse3",        Need::Passed,   1,           0, Register::Ecx,  9, 0),
    ("fma",          Need::Passed,   1,           0, Register::Ecx, 12, AVX_STATE),
    ("sse4_1",       Need::Passed,   1,           0, Register::Ecx, 19, 0),
    ("sse4_2",       Need::Passed,   1,           0, Register::Ecx, 20, 0),
    ("movbe",        Need::Passed,   1,           0, Register::Ecx, 22, 0),
    ("popcnt",       Need::Passed,   1,           0, Register::Ecx, 23, 0),
    ("aes",          Need::Passed,   1,           0, Register::Ecx, 25, 0),
    ("xsave",        Need::Passed,   1,           0, Register::Ecx, 27, 0),
    ("avx",          Need::Passed,   1,           0, Register::Ecx, 28, AVX_STATE),
    ("f16c",         Need::Passed,   1,           0, Register::Ecx, 29, AVX_STATE),
    ("rdrand",       Need::Passed,   1,           0, Register::Ecx, 30, 0),
    ("xsaveopt",     Need::Passed,   0xd,         1, Register::Eax,  0, 0),
    ("fsgsbase",     Need::Passed,   7,           0, Register::Ebx,  0, 0),
    ("bmi1",         Need::Passed,   7,           0, Register::Ebx,  3, 0),
    ("avx2",         Need::Passed,   7,           0, Register::Ebx,  5, AVX_STATE),
    ("bmi2",         Need::Passed,   7,           0, Register::Ebx,  8, 0),
    ("erms",         Need::Passed,   7,           0, Register::Ebx,  9, 0),
    ("avx512f",      Need::Passed,   7,           0, Register::Ebx, 16, AVX512_STATE),
    ("rdseed",       Need::Passed,   7,           0, Register::Ebx, 18, 0),
    ("adx",          Need::Passed,   7,           0, Register::Ebx, 19, 0),
    ("clflushopt",   Need::Passed,   7,           0, Register::Ebx, 23, 0),
    ("avx512dq",     Need::Passed,   7,           0, Register::Ebx, 17, AVX512_STATE),
    ("sha_ni",       Need::Passed,   7,           0, Register::Ebx, 29, 0),
    ("avx512bw",     Need::Passed,   7,           0, Register::Ebx, 30, AVX512_STATE),
    ("avx512vl",     Need::Passed,   7,           0, Register::Ebx, 31, AVX512_STATE),
    ("vaes",         Need::Passed,   7,           0, Register::Ecx,  9, AVX_STATE),
    ("vpclmulqdq",   Need::Passed,   7,           0, Register::Ecx, 10, AVX_STATE),
    ("lzcnt",        Need::Passed,   0x8000_0001, 0, Register::Ecx,  5, 0),
    ("vmx",          Need::Other,    1,           0, Register::Ecx,  5, 0),
    ("svm",          Need::Other,    0x8000_0001, 0, Register::Ecx,  2, 0),
    ("hypervisor",   Need::Other,    1,           0, Register::Ecx, 31, 0),
];

/// What the host's processor has of the features that matter here.
pub fn features() -> Vec<Feature> {
    let xcr0 = xcr0();
    let row = |&(name, need, leaf, subleaf, register, bit, state): &Row| {
        let Cpuid { eax, ebx, ecx, edx } = cpuid_checked(leaf, subleaf);
        let word = match register {
            Register::Eax => eax,
            Register::Ebx => ebx,
            Register::Ecx => ecx,
            Register::Edx => edx,
        };
        Feature { name, need, present: word >> bit & 1 != 0 && xcr0 & state == state }
    };
    FEATURES.iter().map(row).collect()
}

/// Whether programs may set the bases of FS and GS themselves (WRFSBASE), which the kernel has to have allowed.
pub fn programs_set_bases() -> bool {
    /// `HWCAP2_FSGSBASE` of asm/hwcap2.h.
    const FSGSBASE: libc::c_ulong = 1 << 1;
    // SAFETY: a plain call.
    unsafe { libc::getauxval(libc::AT_HWCAP2) & FSGSBASE != 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaves_beyond_the_highest_are_zero() {
        let highest = cpuid(0, 0).eax;
        assert_eq!(cpuid_checked(highest + 1, 0), Cpuid::default());
        assert_eq!(cpuid_checked(1, 0).eax, cpuid(1, 0).eax);
        assert_ne!(cpuid_checked(1, 0).eax, 0);
    }

    #[test]
    fn features_agree_with_the_kernel() {
        let info = fs::read_to_string("/proc/cpuinfo").unwrap();
        let flags = info.lines().find_map(|line| line.strip_prefix("flags")).unwrap();
        let flags: Vec<_> = flags.split_whitespace().collect();
        for feature in features() {
            // The kernel calls some by older names, and hides what it does not use itself.
            let name = match feature.name {
                "sse3" => "pni",
                "lzcnt" => "abm",
                name => name,
            };
            if flags.contains(&name) {
                assert!(feature.present, "{name} is in /proc/cpuinfo");
            }
        }
        assert!(
            features().iter().filter(|feature| feature.need == Need::Required).all(|feature| feature.present)
        );
    }

    #[test]
    fn the_frequency_fits_the_clock() {
        let hz = tsc_hz();
        let (start, counter) = tight_pair();
        std::thread::sleep(Duration::from_millis(30));
        let (end, later) = tight_pair();
        let expected = (end - start).as_secs_f64() * hz as f64;
        let counted = (later - counter) as f64;
        assert!((counted / expected - 1.0).abs() < 0.01, "{hz} Hz, but {counted} counts for {expected}");
    }

    #[test]
    fn names_are_printable() {
        assert!(!brand().is_empty() && brand().chars().all(|c| !c.is_control()), "{:?}", brand());
        assert_eq!(vendor().len(), 12, "{}", vendor());
    }
}
