//! Entries that fail under popf, and why: the list that `cargo xtask units` holds its results against.

use std::fs;

/// Where a row holds.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Host {
    Any,
    /// A guest's processor is the host's, so some tests for Intel's fail on AMD's as they do on the bare machine.
    Amd,
}

use Host::{Amd, Any};

/// Architecture (any if empty), entry, host, reason.
#[rustfmt::skip]
const KNOWN: &[(&str, &str, Host, &str)] = &[
    ("", "vmexit_vmcall", Any, "calls KVM's hypercalls without asking whether KVM is there; VMCALL is #UD, as CPUID says"),
    ("", "x2apic",        Any, "calls KVM's hypercalls without asking whether KVM is there"),
    ("", "xapic",         Any, "calls KVM's hypercalls without asking whether KVM is there"),
    ("", "hypercall",     Any, "wants KVM's answers to hypercalls; VMCALL and VMMCALL are #UD, as CPUID says"),
    ("x86_64", "emulator",      Amd, "wants far jumps with 64-bit offsets, which AMD's processors do not have; popf follows the host's"),
    ("", "s3",            Any, "sleeps to memory by ACPI, which popf's machine does not offer: no FACS, no _S3"),
    ("", "intel_iommu",   Any, "wants a q35 machine with an IOMMU"),
];

/// Why this entry fails; `None` if it ought not to.
pub fn why(arch: &str, entry: &str) -> Option<&'static str> {
    let here = |row: &&(&str, &str, Host, &str)| {
        (row.0.is_empty() || row.0 == arch) && row.1 == entry && (row.2 == Any || is_amd())
    };
    KNOWN.iter().find(here).map(|row| row.3)
}

/// Whether the host's processor is AMD's (or Hygon's).
fn is_amd() -> bool {
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    cpus.contains("AuthenticAMD") || cpus.contains("HygonGenuine")
}
