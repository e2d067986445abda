//! Hosts written down as tables, one of each maker, and what a guest sees on them.

use std::collections::HashSet;

use iced_x86::CpuidFeature;

use super::*;
use crate::Mode;
use crate::classify::{self, Routine};

/// A Zen 4 as a cloud machine shows it.
fn amd(leaf: u32, subleaf: u32) -> Leaf {
    match (leaf, subleaf) {
        (0, _) => [0x1c, 0x6874_7541, 0x444d_4163, 0x6974_6e65],
        (1, _) => [0xa1_0f11, 0x0102_0800, 0xfffa_3203, 0x178b_fbff],
        (6, _) => [4, 0, 0, 0],
        (7, 0) => [1, 0xf1bf_07ab, 0x0040_5fc6, 0x10],
        (7, 1) => [0x20, 0, 0, 0],
        (0xd, 0) => [0xe7, 0x980, 0x980, 0],
        (0xd, 1) => [0xf, 0x9a8, 0x1800, 0],
        (0xd, 2) => [0x100, 0x240, 0, 0],
        (0xd, 5) => [0x40, 0x340, 0, 0],
        (0xd, 6) => [0x200, 0x380, 0, 0],
        (0xd, 7) => [0x400, 0x580, 0, 0],
        (0x4000_0000, _) => [0x4000_0001, 0x4b4d_564b, 0x564b_4d56, 0x4d],
        (0x8000_0000, _) => [0x8000_0021, 0x6874_7541, 0x444d_4163, 0x6974_6e65],
        (0x8000_0001, _) => [0xa1_0f11, 0x4000_0000, 0x0040_03f3, 0x2fd3_fbff],
        (0x8000_0002, _) => [0x2044_4d41, 0x4359_5045, 0, 0],
        (0x8000_0006, _) => [0x5c00_2200, 0x6c00_4200, 0x0400_6140, 0x0a00_9140],
        (0x8000_0007, _) => [0, 0, 0, 0x100],
        (0x8000_0008, _) => [0x30_3030, 0x5002_0005, 0x7001, 0],
        (0x8000_001d, 0) => [0x121, 0x01c0_003f, 0x3f, 0],
        (0x8000_001d, 3) => [0x4163, 0x03c0_003f, 0x7fff, 1],
        (0x8000_001d, 1 | 2) => [0x143, 0x01c0_003f, 0x7ff, 2],
        (0x8000_001e, _) => [1, 1, 0, 0],
        (0x8000_0021, _) => [0x204, 0, 0x86, 0],
        _ => [0; 4],
    }
}

/// An Intel processor of which every feature bit is set.
fn intel(leaf: u32, subleaf: u32) -> Leaf {
    match (leaf, subleaf) {
        (0, _) => [0x20, 0x756e_6547, 0x6c65_746e, 0x4965_6e69],
        (1, _) => [0x8_06f8, 0x4040_0800, !0, !0],
        (2, _) => [0x00fe_ff01, 0xf0, 0, 0],
        (4, 0) => [0xfc00_4121, 0x02c0_003f, 0x3f, 0],
        (4, 1) => [0xfc1f_c163, 0x0380_003f, 0x1ffff, 4],
        (4, _) => [0; 4],
        (7, 0) => [2, !0, !0, !0],
        (7, _) => [!0; 4],
        (0xd, 0) => [0x602e7, 0, 0x2b00, 0],
        (0xd, 1) => [0x1f, 0, 0, 0],
        (0xd, 2) => [0x100, 0x240, 2, 0],
        (0xd, 5) => [0x40, 0x440, 0, 0],
        (0xd, 6) => [0x200, 0x480, 6, 0],
        (0xd, 7) => [0x400, 0x680, 4, 0],
        (0x15, _) => [2, 208, 24_000_000, 0],
        (0x8000_0000, _) => [0x8000_0008, 0, 0, 0],
        (0x8000_0008, _) => [0x3934, 0x200, 0, 0],
        _ => [!0; 4],
    }
}

fn config(vcpus: u32) -> CpuidConfig {
    CpuidConfig { vcpus, host_xcr0: u64::MAX, tsc_khz: Some(2_596_130) }
}

const VCPU: CpuidState = CpuidState { apic_id: 3, osxsave: true, xcr0: Xcr0::X87 };

fn bit(table: &CpuidTable, name: &str) -> bool {
    let feature = FEATURES.iter().find(|feature| feature.name == name).unwrap();
    let answer = table.lookup(feature.leaf, feature.subleaf, &VCPU);
    answer[feature.register as usize] >> feature.bit & 1 != 0
}

#[test]
fn one_row_per_bit_in_order() {
    let places: Vec<_> = FEATURES.iter().map(|f| (f.leaf, f.subleaf, f.register as usize, f.bit)).collect();
    assert!(places.is_sorted_by(|a, b| a < b));
    for feature in FEATURES {
        assert!(feature.bit < 32 && !matches!(feature.offer, Offer::Hidden("")), "{feature:?}");
    }
}

#[test]
fn nothing_hidden_or_unknown_gets_through() {
    for (host, name) in [(intel as fn(u32, u32) -> Leaf, "Intel"), (amd, "AMD")] {
        let table = CpuidTable::new(&config(4), host);
        for feature in FEATURES {
            let hidden = matches!(feature.offer, Offer::Hidden(_));
            assert!(!(hidden && table.offers(feature)), "{} on {name}", feature.name);
        }
        for (leaf, subleaf, register) in
            [(1, 0, 2), (1, 0, 3), (7, 0, 1), (7, 0, 2), (7, 0, 3), (7, 1, 0), (7, 1, 3), (0x8000_0021, 0, 0)]
        {
            let rows = FEATURES.iter().filter(|f| (f.leaf, f.subleaf) == (leaf, subleaf));
            let known = rows.filter(|f| f.register as usize == register).fold(0, |all, f| all | 1 << f.bit);
            let answer = table.stored(leaf, subleaf)[register];
            assert_eq!(answer & !known, 0, "leaf {leaf:#x} {subleaf} register {register} on {name}");
        }
        // Leaves whose subjects are hidden whole.
        for leaf in [3, 5, 9, 0xa, 0xf, 0x10, 0x12, 0x14, 0x8000_000a, 0x8000_001b, 0x8000_001f] {
            let expected =
                if leaf > 0x8000_0008 && name == "Intel" { table.lookup(0x16, 0, &VCPU) } else { [0; 4] };
            assert_eq!(table.lookup(leaf, 0, &VCPU), expected, "leaf {leaf:#x} on {name}");
        }
    }
}

#[test]
fn what_the_classification_does_not_offer_is_hidden() {
    use CpuidFeature as C;
    let rows = [
        (C::MONITOR, "MONITOR"),
        (C::VMX, "VMX"),
        (C::SMX, "SMX"),
        (C::INVPCID, "INVPCID"),
        (C::RTM, "RTM"),
        (C::MPX, "MPX"),
        (C::PKU, "PKU"),
        (C::WAITPKG, "WAITPKG"),
        (C::CET_SS, "CET_SS"),
        (C::AESKLE, "KL"),
        (C::MOVDIR64B, "MOVDIR64B"),
        (C::ENQCMD, "ENQCMD"),
        (C::UINTR, "UINTR"),
        (C::TSXLDTRK, "TSXLDTRK"),
        (C::PCONFIG, "PCONFIG"),
        (C::AMX_TILE, "AMX-TILE"),
        (C::AMX_INT8, "AMX-INT8"),
        (C::FRED, "FRED"),
        (C::LKGS, "LKGS"),
        (C::WRMSRNS, "WRMSRNS"),
        (C::HRESET, "HRESET"),
        (C::MSRLIST, "MSRLIST"),
        (C::SVM, "SVM"),
        (C::LWP, "LWP"),
        (C::MONITORX, "MONITORX"),
        (C::INVLPGB, "INVLPGB"),
        (C::RDPRU, "RDPRU"),
        (C::MCOMMIT, "MCOMMIT"),
    ];
    let unsupported = |code: &iced_x86::Code| {
        matches!(classify::routine(*code, Mode::Long64), Some(Routine::NotOffered | Routine::Nop))
    };
    let absent: HashSet<_> =
        iced_x86::Code::values().filter(unsupported).flat_map(|code| code.cpuid_features()).collect();
    for (feature, name) in rows {
        assert!(absent.contains(&feature), "{feature:?} has a routine");
        let row = FEATURES.iter().find(|row| row.name == name).unwrap();
        assert!(matches!(row.offer, Offer::Hidden(_)), "{name} is offered");
    }
}

#[test]
fn amd_identity_and_features() {
    let table = CpuidTable::new(&config(1), amd);
    assert_eq!(table.vendor(), Vendor::Amd);
    assert_eq!(table.lookup(0, 9, &VCPU), [0x16, 0x6874_7541, 0x444d_4163, 0x6974_6e65]);
    let one = table.lookup(1, 0, &VCPU);
    assert_eq!((one[0], one[1]), (0xa1_0f11, 0x0301_0800), "one logical processor, APIC id 3");
    assert_eq!(one[3] >> 28 & 1, 0, "HTT");
    for name in ["AVX", "AVX512F", "AVX512_BF16", "AESNI", "SMAP", "UMIP", "TSC-Deadline", "x2APIC", "NX"] {
        assert!(bit(&table, name), "{name}");
    }
    let intels = ["IBRS and IBPB", "IA32_ARCH_CAPABILITIES", "BHI_CTRL"];
    for name in ["PCID", "INVPCID", "MPX", "SVM", "IBRS", "IBPB_RET", "CmpLegacy"].into_iter().chain(intels) {
        assert!(!bit(&table, name), "{name}");
    }
    let eight = table.lookup(0x8000_0008, 0, &VCPU);
    assert_eq!(
        eight,
        [0x3930, 1 | 1 << 2 | 1 << 9 | 1 << 20 | 1 << 26 | 1 << 29, 0, 0],
        "with defences that are needless"
    );
    assert_eq!(table.physical_bits(), 48);
    assert_eq!(table.lookup(0x8000_0007, 0, &VCPU), [0, 0, 0, 0x100], "invariant TSC");
    let extended = table.lookup(0x8000_0001, 0, &VCPU)[3];
    assert_eq!(extended & AMD_REPEATS, one[3] & AMD_REPEATS);
    assert_eq!(table.lookup(0x8000_0022, 0, &VCPU), [0; 4]);
    assert_eq!(table.lookup(0x17, 0, &VCPU), [0; 4]);
    assert_eq!(table.lookup(0xc000_0000, 0, &VCPU), [0; 4]);
}

#[test]
fn intel_identity_and_out_of_range() {
    let table = CpuidTable::new(&config(2), intel);
    assert_eq!(table.vendor(), Vendor::Intel);
    assert_eq!(table.lookup(0, 0, &VCPU)[0], 0x16);
    assert_eq!(table.lookup(0x8000_0000, 0, &VCPU), [0x8000_0008, 0, 0, 0]);
    assert_eq!(table.physical_bits(), 48, "of the host's 52");
    assert_eq!(table.lookup(0x8000_0008, 0, &VCPU), [0x3930, 0x200, 0, 0]);
    assert_eq!(table.lookup(0x15, 0, &VCPU), [2, 208, 24_000_000, 0]);
    assert_eq!(table.lookup(0x20, 0, &VCPU), table.lookup(0x16, 0, &VCPU));
    assert_eq!(table.lookup(0x8000_0009, 0, &VCPU), table.lookup(0x16, 0, &VCPU));
    assert!(bit(&table, "HTT") && bit(&table, "SERIALIZE") && bit(&table, "AVX512_FP16"));
    assert!(bit(&table, "IA32_ARCH_CAPABILITIES") && bit(&table, "IBRS and IBPB"), "defences are needless");
    assert_eq!(table.lookup(7, 0, &VCPU)[0], 2, "two more sub-leaves");
    assert_eq!(table.lookup(7, 3, &VCPU), [0; 4]);
}

#[test]
fn hypervisor_leaves_are_ours() {
    let table = CpuidTable::new(&config(1), amd);
    let [last, ebx, ecx, edx] = table.lookup(0x4000_0000, 0, &VCPU);
    let text: Vec<u8> = [ebx, ecx, edx].iter().flat_map(|word| word.to_le_bytes()).collect();
    assert_eq!(text, SIGNATURE);
    assert_eq!(table.lookup(last, 0, &VCPU), [2_596_130, 0, 0, 0]);
    assert_eq!(table.lookup(0x4000_0001, 0, &VCPU), [0; 4], "not the outer hypervisor's");
    assert!(bit(&table, "hypervisor"));
}

#[test]
fn topology_follows_the_vcpus() {
    for host in [amd as fn(u32, u32) -> Leaf, intel] {
        for (vcpus, space, bits) in [(1, 1, 0), (2, 2, 1), (3, 4, 2), (16, 16, 4)] {
            let table = CpuidTable::new(&config(vcpus), host);
            let one = table.lookup(1, 0, &VCPU);
            assert_eq!((one[1] >> 16 & 0xff, one[1] >> 24), (space, 3));
            assert_eq!(one[3] >> 28 & 1, u32::from(vcpus > 1));
            assert_eq!(table.lookup(0xb, 0, &VCPU), [0, 1, 0x100, 3]);
            assert_eq!(table.lookup(0xb, 1, &VCPU), [bits, vcpus, 0x201, 3]);
            assert_eq!(table.lookup(0xb, 2, &VCPU), [0, 0, 2, 3]);
            if table.vendor() == Vendor::Amd {
                assert_eq!(table.lookup(0x8000_0008, 0, &VCPU)[2], (vcpus - 1) | (bits << 12));
                assert_eq!(table.lookup(0x8000_001e, 0, &VCPU), [3, 3, 0, 0]);
                assert_eq!(table.lookup(0x8000_001d, 0, &VCPU)[0], 0x121, "a core's own");
                assert_eq!(table.lookup(0x8000_001d, 3, &VCPU)[0], 0x163 | (space - 1) << 14);
                assert_eq!(table.lookup(0x8000_001d, 4, &VCPU), [0; 4]);
                assert_eq!(bit(&table, "CmpLegacy"), vcpus > 1);
            } else {
                assert_eq!(table.lookup(4, 0, &VCPU)[0], 0x121 | (space - 1) << 26);
                assert_eq!(table.lookup(4, 1, &VCPU)[0], 0x163 | (space - 1) << 26 | (space - 1) << 14);
                assert_eq!(table.lookup(4, 2, &VCPU), [0; 4]);
            }
        }
    }
}

#[test]
fn xsave_sizes_follow_xcr0() {
    let avx = Xcr0::X87 | Xcr0::SSE | Xcr0::AVX;
    let with = |xcr0| CpuidState { xcr0, ..VCPU };
    let table = CpuidTable::new(&config(1), amd);
    assert_eq!(table.supported_xcr0(), avx | Xcr0::AVX512);
    assert_eq!(table.lookup(0xd, 0, &with(Xcr0::X87)), [0xe7, 576, 0x980, 0]);
    assert_eq!(table.lookup(0xd, 0, &with(avx))[1], 576 + 256);
    assert_eq!(table.lookup(0xd, 0, &with(avx | Xcr0::AVX512))[1], 0x980);
    assert_eq!(table.lookup(0xd, 1, &with(avx))[..2], [7, 576 + 256], "no XSAVES");
    assert_eq!(table.lookup(0xd, 2, &VCPU), [0x100, 0x240, 0, 0]);
    assert_eq!(table.lookup(0xd, 9, &VCPU), [0; 4], "PKRU");

    let table = CpuidTable::new(&config(1), intel);
    assert_eq!(table.supported_xcr0(), avx | Xcr0::AVX512, "tiles and PKRU are not offered");
    let all = with(avx | Xcr0::AVX512);
    assert_eq!(table.lookup(0xd, 0, &all), [0xe7, 0xa80, 0xa80, 0]);
    assert_eq!(table.lookup(0xd, 1, &all)[1], 576 + 256 + 64 + 512 + 1024);
    // 576 and 832 are multiples of 64, so show alignment where it bites: a component of odd size before.
    let odd =
        |leaf, subleaf| if (leaf, subleaf) == (0xd, 5) { [8, 0x440, 0, 0] } else { intel(leaf, subleaf) };
    let table = CpuidTable::new(&config(1), odd);
    assert_eq!(table.lookup(0xd, 1, &all)[1], 576 + 256 + 64 + 512 + 1024);
}

#[test]
fn state_the_host_has_not_enabled_is_not_offered() {
    let no_avx512 = CpuidConfig { host_xcr0: 7, ..config(1) };
    let table = CpuidTable::new(&no_avx512, amd);
    assert!(bit(&table, "AVX2") && !bit(&table, "AVX512F") && !bit(&table, "AVX512_VNNI"));
    assert_eq!(table.lookup(0xd, 0, &VCPU), [7, 576, 832, 0]);

    let no_avx = CpuidConfig { host_xcr0: 3, ..config(1) };
    let table = CpuidTable::new(&no_avx, amd);
    assert!(bit(&table, "XSAVE") && !bit(&table, "AVX") && !bit(&table, "FMA") && !bit(&table, "VAES"));

    // The host's kernel leaves OSXSAVE clear.
    let old = |leaf, subleaf| {
        let mut out = amd(leaf, subleaf);
        if leaf == 1 {
            out[2] &= !(1 << 27);
        }
        out
    };
    let table = CpuidTable::new(&config(1), old);
    assert!(!bit(&table, "XSAVE") && !bit(&table, "AVX") && table.supported_xcr0().is_empty());
    assert_eq!(table.lookup(0xd, 0, &VCPU), [0; 4]);
}

#[test]
fn osxsave_is_the_vcpus_own() {
    let table = CpuidTable::new(&config(1), amd);
    assert_eq!(table.lookup(1, 0, &VCPU)[2] >> 27 & 1, 1);
    assert_eq!(table.lookup(1, 0, &CpuidState { osxsave: false, ..VCPU })[2] >> 27 & 1, 0);
}
