//! CPUID as the guest sees it (SDM vol. 2 CPUID; APM vol. 3 app. E): the host's vendor, family, caches and
//! features, less what popf does not virtualize, with the machine's own topology and a hypervisor leaf.
//!
//! A [`CpuidTable`] is made once, since CPUID is slow where the host is itself a guest. Three things in it
//! depend on the vCPU that asks, and are filled in at look-up: its APIC id, CR4.OSXSAVE and XCR0.
//!
//! The machine is one package of single-threaded cores. Not modelled: processors other than those that follow
//! Intel or AMD (Hygon does); V2 topology (leaf 1Fh), which says no more here than leaf 0Bh.

use crate::Xcr0;

mod features;
#[cfg(test)]
mod tests;

pub use features::{FEATURES, Feature, Offer, Register};

/// EAX, EBX, ECX, EDX.
pub type Leaf = [u32; 4];

/// What EBX, ECX and EDX of leaf 4000_0000h spell.
pub const SIGNATURE: &[u8; 12] = b"popfpopfpopf";

/// The most physical address bits a guest is offered: what 4-level tables, and AMD's processors, know.
const PHYSICAL_BITS_MAX: u32 = 48;
/// Linear address bits with LA57, which is always offered.
const LINEAR_BITS: u32 = 57;
/// The last basic leaf offered. Past it stand leaves that are hidden (SGX, trace, tiles) or say nothing new.
const BASIC_MAX: u32 = 0x16;
const EXTENDED: u32 = 0x8000_0000;
const EXTENDED_MAX: u32 = 0x8000_0021;
const HYPERVISOR: u32 = 0x4000_0000;
/// Leaf of the TSC's and the APIC timer's frequency, as VMware and KVM number it.
const HYPERVISOR_TIMING: u32 = 0x4000_0010;
/// Sub-leaves of a cache leaf that are looked at; processors have four or five caches.
const CACHES_MAX: u32 = 16;

/// The processor's maker, as far as CPUID differs by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vendor {
    /// AMD and Hygon.
    Amd,
    /// Intel, and whoever does as Intel does.
    Intel,
}

/// What the machine adds to the host's answers.
#[derive(Clone, Copy, Debug)]
pub struct CpuidConfig {
    /// vCPUs, from 1; their APIC ids count from 0.
    pub vcpus: u32,
    /// XCR0 of the host (XGETBV), or all ones if it is not known: the state that its kernel has enabled.
    pub host_xcr0: u64,
    /// Frequency of the TSC, if it is known.
    pub tsc_khz: Option<u32>,
}

/// What a vCPU's own registers change in the answer.
#[derive(Clone, Copy, Debug)]
pub struct CpuidState {
    /// Its local APIC's id.
    pub apic_id: u32,
    /// CR4.OSXSAVE.
    pub osxsave: bool,
    /// XCR0.
    pub xcr0: Xcr0,
}

/// CPUID of a machine's vCPUs.
#[derive(Clone, Debug)]
pub struct CpuidTable {
    /// Sorted by leaf and sub-leaf; a leaf without sub-leaves stands under sub-leaf 0.
    entries: Vec<((u32, u32), Leaf)>,
    vendor: Vendor,
    vcpus: u32,
    basic_max: u32,
    extended_max: u32,
    /// What XCR0 may be.
    xcr0: Xcr0,
    /// Asked for at each walk of page tables, so it is not looked up.
    physical_bits: u8,
}

impl CpuidTable {
    /// The table for a machine on the host that `read` asks: `read(leaf, subleaf)` is the CPUID instruction.
    pub fn new(config: &CpuidConfig, mut read: impl FnMut(u32, u32) -> Leaf) -> Self {
        let identity = read(0, 0);
        let vendor = match &identity[1].to_le_bytes() {
            b"Auth" | b"Hygo" => Vendor::Amd,
            _ => Vendor::Intel,
        };
        let host = Host { basic_max: identity[0], extended_max: read(EXTENDED, 0)[0], read: &mut read };
        Builder::new(config, vendor, host).build(identity)
    }

    /// What CPUID answers a vCPU.
    pub fn lookup(&self, leaf: u32, subleaf: u32, vcpu: &CpuidState) -> Leaf {
        let known = match leaf {
            0..EXTENDED if leaf & 0xf000_0000 == HYPERVISOR => true,
            0..EXTENDED => leaf <= self.basic_max,
            _ => leaf <= self.extended_max,
        };
        // Past its last leaf Intel answers as for the last basic one, AMD with zeros.
        match (known, self.vendor) {
            (true, _) => self.answer(leaf, subleaf, vcpu),
            (false, Vendor::Intel) => self.answer(self.basic_max, subleaf, vcpu),
            (false, Vendor::Amd) => [0; 4],
        }
    }

    fn answer(&self, leaf: u32, subleaf: u32, vcpu: &CpuidState) -> Leaf {
        let mut out = self.stored(leaf, if has_subleaves(leaf) { subleaf } else { 0 });
        match leaf {
            1 => {
                out[1] |= (vcpu.apic_id & 0xff) << 24;
                out[2] |= u32::from(vcpu.osxsave) << 27;
            }
            0xb => {
                // Past the last level only the sub-leaf's number and the id are given.
                out[2] |= subleaf & 0xff;
                out[3] = vcpu.apic_id;
            }
            0xd if out != [0; 4] => match subleaf {
                0 => out[1] = self.area(vcpu.xcr0, false),
                1 if out[0] & XSAVEC != 0 => out[1] = self.area(vcpu.xcr0, true),
                _ => {}
            },
            0x8000_001e => {
                out[0] = vcpu.apic_id;
                out[1] |= vcpu.apic_id & 0xff;
            }
            _ => {}
        }
        out
    }

    /// MAXPHYADDR.
    pub fn physical_bits(&self) -> u8 {
        self.physical_bits
    }

    /// The maker.
    pub fn vendor(&self) -> Vendor {
        self.vendor
    }

    /// How many vCPUs the table was made for.
    pub fn vcpus(&self) -> u32 {
        self.vcpus
    }

    /// What XCR0 may be.
    pub fn supported_xcr0(&self) -> Xcr0 {
        self.xcr0
    }

    /// Whether a feature is offered; for those that depend on a vCPU's state, whether it could be.
    pub fn offers(&self, feature: &Feature) -> bool {
        let present =
            self.stored(feature.leaf, feature.subleaf)[feature.register as usize] >> feature.bit & 1;
        present != 0 || (feature.name == "OSXSAVE" && !self.xcr0.is_empty())
    }

    fn stored(&self, leaf: u32, subleaf: u32) -> Leaf {
        let found = self.entries.binary_search_by_key(&(leaf, subleaf), |entry| entry.0);
        found.map_or([0; 4], |at| self.entries[at].1)
    }

    /// Size of an XSAVE area that holds these components (SDM vol. 1 ch. 13.4).
    fn area(&self, xcr0: Xcr0, compacted: bool) -> u32 {
        let mut size = LEGACY_AREA;
        for (_, component) in components(xcr0) {
            let [bytes, offset, flags, _] = self.stored(0xd, component);
            size = match (compacted, flags & COMPONENT_ALIGNED != 0) {
                (false, _) => size.max(offset.saturating_add(bytes)),
                (true, true) => size.next_multiple_of(64).saturating_add(bytes),
                (true, false) => size.saturating_add(bytes),
            };
        }
        size
    }
}

/// Leaf 0Dh sub-leaf 1 EAX.
const XSAVEC: u32 = 1 << 1;
/// XSAVEOPT, XSAVEC and XGETBV with ECX = 1; XSAVES and XFD are for supervisors' components.
const XSAVE_OFFERED: u32 = 0b111;
/// Leaf 0Dh, component's ECX: it starts on a 64-byte boundary in the compacted format.
const COMPONENT_ALIGNED: u32 = 1 << 1;
/// FXSAVE's area and the XSAVE header.
const LEGACY_AREA: u32 = 512 + 64;

/// The extended components among these, those past x87 and SSE, with their bits.
fn components(xcr0: Xcr0) -> impl Iterator<Item = (u64, u32)> {
    (2..63).map(|n| (1_u64 << n, n)).filter(move |(bit, _)| xcr0.bits() & bit != 0)
}

/// Whether ECX chooses among several answers.
fn has_subleaves(leaf: u32) -> bool {
    matches!(leaf, 4 | 7 | 0xb | 0xd | 0x8000_001d)
}

/// The host's CPUID, asked only for leaves it has: past its last, Intel repeats another one.
struct Host<'a> {
    basic_max: u32,
    extended_max: u32,
    read: &'a mut dyn FnMut(u32, u32) -> Leaf,
}

impl Host<'_> {
    fn read(&mut self, leaf: u32, subleaf: u32) -> Leaf {
        let last = if leaf >= EXTENDED { self.extended_max } else { self.basic_max };
        if leaf <= last { (self.read)(leaf, subleaf) } else { [0; 4] }
    }
}

struct Builder<'a> {
    host: Host<'a>,
    vendor: Vendor,
    vcpus: u32,
    tsc_khz: Option<u32>,
    xcr0: Xcr0,
    entries: Vec<((u32, u32), Leaf)>,
}

impl<'a> Builder<'a> {
    fn new(config: &CpuidConfig, vendor: Vendor, mut host: Host<'a>) -> Self {
        // Bits 26 and 27: XSAVE, and the host's kernel uses it.
        let xsave = host.read(1, 0)[2] >> 26 & 3 == 3;
        let [low, _, _, high] = host.read(0xd, 0);
        let enabled = (u64::from(high) << 32 | u64::from(low)) & config.host_xcr0;
        let mut xcr0 = if xsave { Xcr0::from_bits_truncate(enabled) - Xcr0::PKRU } else { Xcr0::empty() };
        if !xcr0.contains(Xcr0::AVX | Xcr0::AVX512) {
            xcr0 -= Xcr0::AVX512;
        }
        let vcpus = config.vcpus.max(1);
        Self { host, vendor, vcpus, tsc_khz: config.tsc_khz, xcr0, entries: Vec::new() }
    }

    fn build(mut self, identity: Leaf) -> CpuidTable {
        let basic_max = identity[0].clamp(0xd, BASIC_MAX);
        let extended_max = match self.vendor {
            Vendor::Amd => self.host.extended_max.clamp(0x8000_0008, EXTENDED_MAX),
            Vendor::Intel => 0x8000_0008,
        };
        self.put(0, 0, [basic_max, identity[1], identity[2], identity[3]]);
        self.basic_features();
        self.caches();
        self.xsave();
        self.hypervisor();
        self.extended(identity, extended_max);
        let mut entries = self.entries;
        entries.sort_unstable_by_key(|entry| entry.0);
        let (vendor, vcpus, xcr0) = (self.vendor, self.vcpus, self.xcr0);
        let table = CpuidTable { entries, vendor, vcpus, basic_max, extended_max, xcr0, physical_bits: 0 };
        CpuidTable { physical_bits: table.stored(0x8000_0008, 0)[0] as u8, ..table }
    }

    fn put(&mut self, leaf: u32, subleaf: u32, answer: Leaf) {
        if answer != [0; 4] {
            self.entries.push(((leaf, subleaf), answer));
        }
    }

    /// Copies a leaf that is a fact about the host.
    fn pass(&mut self, leaf: u32) {
        let answer = self.host.read(leaf, 0);
        self.put(leaf, 0, answer);
    }

    /// The feature bits of one leaf by the policy, all else zero.
    fn features(&mut self, leaf: u32, subleaf: u32) -> Leaf {
        let host = self.host.read(leaf, subleaf);
        let mut out = [0; 4];
        let here = |feature: &&Feature| feature.leaf == leaf && feature.subleaf == subleaf;
        for feature in FEATURES.iter().filter(here) {
            let bit = 1 << feature.bit;
            let native = host[feature.register as usize] & bit;
            out[feature.register as usize] |= match feature.offer {
                Offer::Native if feature.name == "XSAVE" && self.xcr0.is_empty() => 0,
                Offer::Native => native,
                Offer::Avx if self.xcr0.contains(Xcr0::AVX) => native,
                Offer::Avx512 if self.xcr0.contains(Xcr0::AVX512) => native,
                Offer::Emulated => bit,
                Offer::EmulatedBy(vendor) if self.vendor == vendor => bit,
                Offer::Avx | Offer::Avx512 | Offer::Computed => 0,
                Offer::EmulatedBy(_) | Offer::Hidden(_) => 0,
            };
        }
        out
    }

    fn basic_features(&mut self) {
        let host = self.host.read(1, 0);
        let mut one = self.features(1, 0);
        one[0] = host[0];
        // Brand index and CLFLUSH line are the host's, the count of logical processors the machine's.
        one[1] = host[1] & 0xffff | self.id_space().min(255) << 16;
        if self.vcpus > 1 {
            one[3] |= 1 << 28;
        }
        self.put(1, 0, one);
        if self.vendor == Vendor::Intel {
            self.pass(2);
        }
        let six = self.features(6, 0);
        self.put(6, 0, six);
        let last = match self.vendor {
            // What is emulated stands in the last, whether or not the host has it.
            Vendor::Intel => 2,
            Vendor::Amd => self.host.read(7, 0)[0].min(2),
        };
        for subleaf in 0..=last {
            let mut seven = self.features(7, subleaf);
            if subleaf == 0 {
                seven[0] = last;
            }
            self.put(7, subleaf, seven);
        }
        // One thread per core, all cores in one package.
        self.put(0xb, 0, [0, 1, 1 << 8, 0]);
        self.put(0xb, 1, [self.id_bits(), self.vcpus & 0xffff, 2 << 8, 0]);
        if self.vendor == Vendor::Intel {
            self.pass(0x15);
            self.pass(0x16);
        }
    }

    /// Bits of an APIC id that number the cores.
    fn id_bits(&self) -> u32 {
        self.vcpus.next_power_of_two().trailing_zeros()
    }

    /// How many APIC ids there is room for: the vCPUs, rounded up to a power of two.
    fn id_space(&self) -> u32 {
        self.vcpus.next_power_of_two()
    }

    /// Leaf 4, and AMD's 8000_001Dh in the same format: the host's caches, shared as in the machine. The last
    /// level belongs to the package, the others each to a core.
    fn caches(&mut self) {
        let (leaf, packages) = match self.vendor {
            // Bits 31:26: room for cores in the package, less one.
            Vendor::Intel => (4, (self.id_space() - 1).min(63) << 26),
            Vendor::Amd => (0x8000_001d, 0),
        };
        for subleaf in 0..CACHES_MAX {
            let mut cache = self.host.read(leaf, subleaf);
            if cache[0] & 0x1f == 0 {
                break;
            }
            let level = cache[0] >> 5 & 7;
            let sharing = if level >= 3 { (self.id_space() - 1).min(0xfff) } else { 0 };
            cache[0] = cache[0] & 0x3fff | sharing << 14 | packages;
            self.put(leaf, subleaf, cache);
        }
    }

    fn xsave(&mut self) {
        if self.xcr0.is_empty() {
            return;
        }
        let mut largest = LEGACY_AREA;
        for (_, component) in components(self.xcr0) {
            let [size, offset, flags, _] = self.host.read(0xd, component);
            largest = largest.max(offset.saturating_add(size));
            self.put(0xd, component, [size, offset, flags & COMPONENT_ALIGNED, 0]);
        }
        let bits = self.xcr0.bits();
        // EBX, the size for what XCR0 enables now, is filled in at look-up.
        self.put(0xd, 0, [bits as u32, 0, largest, (bits >> 32) as u32]);
        let one = self.host.read(0xd, 1)[0] & XSAVE_OFFERED;
        self.put(0xd, 1, [one, 0, 0, 0]);
    }

    fn hypervisor(&mut self) {
        let word = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|i: usize| SIGNATURE[at + i]));
        self.put(HYPERVISOR, 0, [HYPERVISOR_TIMING, word(0), word(4), word(8)]);
        self.put(HYPERVISOR_TIMING, 0, [self.tsc_khz.unwrap_or(0), 0, 0, 0]);
    }

    fn extended(&mut self, identity: Leaf, last: u32) {
        let amd = self.vendor == Vendor::Amd;
        // Intel leaves the signature here zero.
        let [_, ebx, ecx, edx] = if amd { identity } else { [0; 4] };
        self.put(EXTENDED, 0, [last, ebx, ecx, edx]);

        let host = self.host.read(0x8000_0001, 0);
        let mut one = self.features(0x8000_0001, 0);
        if amd {
            one[0] = host[0];
            // Bits 31:28 of EBX: the package's kind.
            one[1] = host[1] & 0xf000_0000;
            one[2] |= u32::from(self.vcpus > 1) << 1;
            one[2] |= u32::from(last >= 0x8000_001e) << 22;
            one[3] |= self.features(1, 0)[3] & AMD_REPEATS;
        }
        self.put(0x8000_0001, 0, one);
        for leaf in 0x8000_0002..=0x8000_0006 {
            self.pass(leaf);
        }
        let seven = self.features(0x8000_0007, 0);
        self.put(0x8000_0007, 0, seven);

        let mut eight = self.features(0x8000_0008, 0);
        let physical = match self.host.read(0x8000_0008, 0)[0] & 0xff {
            0 => 36,
            bits => bits.min(PHYSICAL_BITS_MAX),
        };
        eight[0] = physical | LINEAR_BITS << 8;
        if amd {
            // Cores less one, and how many bits of an APIC id number them.
            eight[2] = (self.vcpus - 1).min(0xff) | self.id_bits().min(15) << 12;
        } else {
            // Of what is AMD's, Intel has WBNOINVD.
            eight[1] &= 1 << 9;
        }
        self.put(0x8000_0008, 0, eight);
        if !amd {
            return;
        }
        // TLBs for 1 GiB pages, and hints at what runs fast.
        for leaf in [0x8000_0019, 0x8000_001a] {
            if leaf <= last {
                self.pass(leaf);
            }
        }
        if last >= 0x8000_0021 {
            let answer = self.features(0x8000_0021, 0);
            self.put(0x8000_0021, 0, answer);
        }
        // 8000_001Eh is made of the vCPU's id alone: one node, one thread per core.
    }
}

/// Bits of leaf 1 EDX that AMD repeats in leaf 8000_0001h.
const AMD_REPEATS: u32 = 0x0183_f3ff;
