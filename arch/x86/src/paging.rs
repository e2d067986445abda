//! Linear to guest-physical addresses: the walk of the page tables (SDM vol. 3 ch. 4; APM vol. 2 ch. 5).
//!
//! All modes: 32-bit with PSE and PSE-36, PAE, 4-level, 5-level; NX, WP, SMEP, SMAP, user/supervisor, accessed
//! and dirty bits, reserved bits. The caller checks that an address is canonical ([`is_canonical`]) and keeps
//! whatever cache of translations it wants; a walk always goes to memory.
//!
//! Differences from a real processor, none of which a correct guest can tell:
//! - PAE's four PDPTEs are read at each walk, as AMD's nested paging does, not latched when CR3 is written; a
//!   reserved bit in one is a page fault here, not #GP at the write of CR3.
//! - 1 GiB pages are always understood; CPUID decides whether the guest knows of them.
//! - Bit 8 of a non-leaf PML4E or PDPTE is ignored (Intel), not reserved (AMD).
//!
//! Not modelled: protection keys, shadow-stack pages, PCIDs (CR3 bits 11:0 are ignored), memory types.

use crate::{Cr0, Cr4, Efer, Rflags};

#[cfg(test)]
mod tests;

/// Bits of a page-fault error code (SDM vol. 3 figure 4-12).
pub mod error_code {
    /// The page is present: its rights, or a reserved bit, forbade the access.
    pub const PRESENT: u32 = 1 << 0;
    /// The access was a write.
    pub const WRITE: u32 = 1 << 1;
    /// The access was made in user mode.
    pub const USER: u32 = 1 << 2;
    /// A reserved bit of a paging-structure entry is set.
    pub const RESERVED: u32 = 1 << 3;
    /// The access was an instruction fetch, where the processor tells fetches from reads (NX or SMEP on).
    pub const FETCH: u32 = 1 << 4;
}

const P: u64 = 1 << 0;
const RW: u64 = 1 << 1;
const US: u64 = 1 << 2;
const A: u64 = 1 << 5;
const D: u64 = 1 << 6;
const PS: u64 = 1 << 7;
const G: u64 = 1 << 8;
const NX: u64 = 1 << 63;
/// Bits 51:12, the physical address of a table or 4 KiB page.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// How often a walk starts over when another processor changes an entry under it. Guests do that seldom; the
/// bound keeps a hostile one from holding the walker. Past it the translation stands, its A and D bits unset.
const ATTEMPTS: u32 = 64;

/// How CR0, CR4 and EFER say tables are laid out (SDM vol. 3 table 4-1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PagingMode {
    /// CR0.PG clear: linear addresses are physical.
    Off,
    /// 32-bit paging, two levels of 4-byte entries.
    TwoLevel {
        /// CR4.PSE: 4 MiB pages exist.
        pse: bool,
    },
    /// PAE paging, three levels.
    Pae,
    /// 4-level paging.
    FourLevel,
    /// 5-level paging.
    FiveLevel,
}

/// Everything in the registers that decides how a linear address is translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PagingContext {
    /// Layout of the tables.
    pub mode: PagingMode,
    /// CR3.
    pub cr3: u64,
    /// CR0.WP: supervisor writes respect read-only pages.
    pub wp: bool,
    /// EFER.NXE: bit 63 of an entry forbids execution; else it is reserved.
    pub nxe: bool,
    /// CR4.SMEP: the supervisor does not execute user pages.
    pub smep: bool,
    /// CR4.SMAP: the supervisor does not touch user pages unless [`Self::ac`].
    pub smap: bool,
    /// CR4.PGE: bit 8 of a leaf entry makes it global.
    pub pge: bool,
    /// EFLAGS.AC: lifts SMAP for explicit accesses.
    pub ac: bool,
    /// MAXPHYADDR; address bits from here on are reserved.
    pub physical_bits: u8,
}

impl PagingContext {
    /// The context that these registers make.
    #[inline]
    pub fn new(cr0: Cr0, cr3: u64, cr4: Cr4, efer: Efer, rflags: Rflags, physical_bits: u8) -> Self {
        let mode = if !cr0.contains(Cr0::PG) {
            PagingMode::Off
        } else if !cr4.contains(Cr4::PAE) {
            PagingMode::TwoLevel { pse: cr4.contains(Cr4::PSE) }
        } else if !efer.contains(Efer::LMA) {
            PagingMode::Pae
        } else if cr4.contains(Cr4::LA57) {
            PagingMode::FiveLevel
        } else {
            PagingMode::FourLevel
        };
        Self {
            mode,
            cr3,
            wp: cr0.contains(Cr0::WP),
            nxe: efer.contains(Efer::NXE),
            smep: cr4.contains(Cr4::SMEP),
            smap: cr4.contains(Cr4::SMAP),
            pge: cr4.contains(Cr4::PGE),
            ac: rflags.contains(Rflags::AC),
            physical_bits,
        }
    }

    /// Whether these tables can translate an address at all ([`is_canonical`]); outside of long mode all are alike.
    #[inline]
    pub fn is_canonical(&self, linear: u64) -> bool {
        is_canonical(linear, self.mode == PagingMode::FiveLevel)
    }

    /// Address bits no entry may set: MAXPHYADDR to 51.
    #[inline]
    fn high_bits(&self) -> u64 {
        (1 << 52) - (1 << u32::from(self.physical_bits).min(52))
    }

    /// What an access may do to a page with these rights (`RW` and `US` as in an entry, `NX` inverted from
    /// nothing: set means no execution), as (read, write, execute).
    #[inline]
    fn permits(&self, access: Access, rights: u64) -> (bool, bool, bool) {
        let user_page = rights & US != 0;
        let writable = rights & RW != 0;
        let executable = rights & NX == 0;
        if access.is_user() {
            (user_page, user_page && writable, user_page && executable)
        } else {
            let touches = !user_page || !self.smap || (self.ac && !access.implicit);
            (touches, touches && (writable || !self.wp), executable && !(user_page && self.smep))
        }
    }

    #[inline]
    fn error(&self, access: Access, cause: u32) -> u32 {
        let pae = !matches!(self.mode, PagingMode::Off | PagingMode::TwoLevel { .. });
        let mut code = cause;
        if access.is_user() {
            code |= error_code::USER;
        }
        match access.kind {
            AccessKind::Read => {}
            AccessKind::Write => code |= error_code::WRITE,
            AccessKind::Execute if self.smep || (pae && self.nxe) => code |= error_code::FETCH,
            AccessKind::Execute => {}
        }
        code
    }
}

/// What is done to memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum AccessKind {
    Read,
    Write,
    Execute,
}

/// One access, as far as paging cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// Read, write or fetch.
    pub kind: AccessKind,
    /// Made at CPL 3.
    pub user: bool,
    /// Made by the processor itself, to a descriptor table or TSS, say. Such an access is a supervisor's
    /// whatever the CPL, and EFLAGS.AC does not lift SMAP for it (SDM vol. 3 ch. 4.6).
    pub implicit: bool,
}

impl Access {
    /// An instruction's own access.
    #[inline]
    pub const fn explicit(kind: AccessKind, user: bool) -> Self {
        Self { kind, user, implicit: false }
    }

    /// The processor's access to a system structure.
    #[inline]
    pub const fn implicit(kind: AccessKind) -> Self {
        Self { kind, user: false, implicit: true }
    }

    #[inline]
    fn is_user(self) -> bool {
        self.user && !self.implicit
    }
}

/// Guest-physical memory as the walker sees it. `&self`, because several vCPUs walk the same memory at once.
///
/// What no memory answers reads as ones, as on a bus. Addresses are naturally aligned.
pub trait PageTables {
    /// Reads 4 bytes.
    fn read_u32(&self, gpa: u64) -> u32;

    /// Reads 8 bytes, in one access.
    fn read_u64(&self, gpa: u64) -> u64;

    /// Stores `new` if memory holds `current`, in one atomic step; `false` says that it held something else.
    /// Memory that cannot be written takes no store and answers `true`.
    fn compare_exchange_u32(&self, gpa: u64, current: u32, new: u32) -> bool;

    /// As [`Self::compare_exchange_u32`], for 8 bytes.
    fn compare_exchange_u64(&self, gpa: u64, current: u64, new: u64) -> bool;
}

/// Size of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PageSize {
    /// 4 KiB.
    Size4K,
    /// 2 MiB.
    Size2M,
    /// 4 MiB.
    Size4M,
    /// 1 GiB.
    Size1G,
}

impl PageSize {
    /// In bytes.
    #[inline]
    pub const fn bytes(self) -> u64 {
        match self {
            Self::Size4K => 1 << 12,
            Self::Size2M => 1 << 21,
            Self::Size4M => 1 << 22,
            Self::Size1G => 1 << 30,
        }
    }
}

/// Where an access goes, and what else the same privilege may do there. A software TLB fills its read, write
/// and execute entries from one of these: the three rights hold for the access's privilege (user or
/// supervisor, with [`PagingContext::ac`] and [`Access::implicit`] as they were).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation {
    /// Physical address of the byte at the linear address that was asked for.
    pub physical: u64,
    /// Size of the page that maps it.
    pub size: PageSize,
    /// A read would be allowed.
    pub readable: bool,
    /// A write would be allowed, and the dirty bit is set already, so that writes may go unseen.
    pub writable: bool,
    /// A fetch would be allowed.
    pub executable: bool,
    /// The page is a user page.
    pub user: bool,
    /// The page survives a write of CR3.
    pub global: bool,
    /// The accessed bit is set.
    pub accessed: bool,
    /// The dirty bit is set.
    pub dirty: bool,
}

/// Whether an address is canonical: bits 63 down to 47 (or 56) all alike.
#[inline]
pub const fn is_canonical(address: u64, la57: bool) -> bool {
    let unused = if la57 { 7 } else { 16 };
    ((address << unused) as i64 >> unused) as u64 == address
}

/// Translates a linear address for an access, and sets accessed and dirty bits as the access demands.
///
/// # Errors
/// The error code of the page fault.
#[inline]
pub fn walk<T: PageTables + ?Sized>(
    context: &PagingContext,
    tables: &T,
    linear: u64,
    access: Access,
) -> Result<Translation, u32> {
    translate::<T, true>(context, tables, linear, access)
}

/// As [`walk`], but leaves memory as it is: for debuggers and statistics.
///
/// # Errors
/// The error code of the page fault that the access would take.
#[inline]
pub fn probe<T: PageTables + ?Sized>(
    context: &PagingContext,
    tables: &T,
    linear: u64,
    access: Access,
) -> Result<Translation, u32> {
    translate::<T, false>(context, tables, linear, access)
}

/// The entry that maps a page of 4 KiB or 2 MiB in long mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageEntry {
    /// Its physical address.
    pub address: u64,
    /// What is there.
    pub value: u64,
    /// Of bits 1 (writable) and 2 (user), those that all entries above it have, and bit 63 (no execution) if any has.
    pub rights: u64,
    /// Whether the page is one of 2 MiB.
    pub large: bool,
}

impl PageEntry {
    /// Whether its accessed bit is set.
    pub fn accessed(&self) -> bool {
        self.value & A != 0
    }
}

/// The entry that maps the page of an address in long mode; none for pages of 1 GiB, and where nothing is mapped. Nobody's
/// rights are looked at, nor reserved bits: [`probe`] does that.
pub fn entry_of_page<T: PageTables + ?Sized>(
    context: &PagingContext,
    tables: &T,
    linear: u64,
) -> Option<PageEntry> {
    let levels = match context.mode {
        PagingMode::FourLevel => 4,
        PagingMode::FiveLevel => 5,
        _ => return None,
    };
    let (mut table, mut rights) = (context.cr3 & ADDRESS, RW | US);
    for level in (0..levels).rev() {
        let address = table + ((linear >> (12 + 9 * level)) & 511) * 8;
        let value = tables.read_u64(address);
        match level {
            _ if value & P == 0 => return None,
            0 => return Some(PageEntry { address, value, rights, large: false }),
            1 if value & PS != 0 => return Some(PageEntry { address, value, rights, large: true }),
            _ if value & PS != 0 => return None,
            _ => (table, rights) = (value & ADDRESS, rights & value | (rights | value) & NX),
        }
    }
    None
}

#[inline]
fn translate<T: PageTables + ?Sized, const MARK: bool>(
    context: &PagingContext,
    tables: &T,
    linear: u64,
    access: Access,
) -> Result<Translation, u32> {
    let narrow = u64::from(linear as u32);
    match context.mode {
        PagingMode::Off => Ok(identity(narrow)),
        PagingMode::TwoLevel { pse } => short::<T, MARK>(context, tables, narrow, access, pse),
        PagingMode::Pae => {
            // A PDPTE has neither rights nor an accessed bit; bits 2:1 and 8:5 are reserved, and so is bit 63
            // whatever EFER.NXE says.
            let pdpte = tables.read_u64((context.cr3 & 0xffff_ffe0) + (narrow >> 30) * 8);
            if pdpte & P == 0 {
                return Err(context.error(access, 0));
            }
            if pdpte & (0xfff0_0000_0000_01e6 | context.high_bits()) != 0 {
                return Err(context.error(access, error_code::PRESENT | error_code::RESERVED));
            }
            // Unlike in long mode, bits 62:52 are reserved.
            long::<T, 2, MARK>(context, tables, pdpte & ADDRESS, narrow, access, 0x7ff0 << 48)
        }
        PagingMode::FourLevel => {
            long::<T, 4, MARK>(context, tables, context.cr3 & ADDRESS, linear, access, 0)
        }
        PagingMode::FiveLevel => {
            long::<T, 5, MARK>(context, tables, context.cr3 & ADDRESS, linear, access, 0)
        }
    }
}

fn identity(linear: u64) -> Translation {
    Translation {
        physical: linear,
        size: PageSize::Size4K,
        readable: true,
        writable: true,
        executable: true,
        user: true,
        global: false,
        accessed: true,
        dirty: true,
    }
}

/// Ends a walk: the access is allowed and `leaf` is its last entry, as it is now in memory.
#[inline]
fn finish(
    context: &PagingContext,
    permitted: (bool, bool, bool),
    rights: u64,
    leaf: u64,
    physical: u64,
    size: PageSize,
) -> Translation {
    let dirty = leaf & D != 0;
    Translation {
        physical,
        size,
        readable: permitted.0,
        writable: permitted.1 && dirty,
        executable: permitted.2,
        user: rights & US != 0,
        global: context.pge && leaf & G != 0,
        accessed: leaf & A != 0,
        dirty,
    }
}

/// Whether the access is among what is permitted.
#[inline]
fn allows(permitted: (bool, bool, bool), kind: AccessKind) -> bool {
    match kind {
        AccessKind::Read => permitted.0,
        AccessKind::Write => permitted.1,
        AccessKind::Execute => permitted.2,
    }
}

/// The bits an access sets in the leaf.
#[inline]
fn marks(kind: AccessKind) -> u64 {
    if kind == AccessKind::Write { A | D } else { A }
}

/// The 8-byte formats: the last two levels of PAE, and 4- and 5-level paging.
#[inline]
fn long<T: PageTables + ?Sized, const LEVELS: usize, const MARK: bool>(
    context: &PagingContext,
    tables: &T,
    root: u64,
    linear: u64,
    access: Access,
    reserved: u64,
) -> Result<Translation, u32> {
    let reserved = reserved | context.high_bits() | if context.nxe { 0 } else { NX };
    let mut attempts = 0;
    'again: loop {
        attempts += 1;
        let mut path = [(0, 0); LEVELS];
        let mut table = root;
        // RW and US must be set at every level, NX at none: complemented, it is a right like the others.
        let mut rights = !0;
        let mut level = LEVELS;
        let (leaf, size) = loop {
            level -= 1;
            let address = table + ((linear >> (12 + 9 * level)) & 511) * 8;
            let entry = tables.read_u64(address);
            if entry & P == 0 {
                return Err(context.error(access, 0));
            }
            let size = match level {
                0 => Some(PageSize::Size4K),
                1 if entry & PS != 0 => Some(PageSize::Size2M),
                2 if entry & PS != 0 => Some(PageSize::Size1G),
                _ => None,
            };
            // Between a large page's PAT bit (12) and its frame nothing may be set.
            let misaligned = match size {
                Some(size) => (size.bytes() - 1) & !0x1fff,
                None if level >= 3 => PS,
                None => 0,
            };
            if entry & (reserved | misaligned) != 0 {
                return Err(context.error(access, error_code::PRESENT | error_code::RESERVED));
            }
            path[level] = (address, entry);
            rights &= entry ^ NX;
            if let Some(size) = size {
                break (entry, size);
            }
            table = entry & ADDRESS;
        };
        let rights = rights ^ NX;
        let permitted = context.permits(access, rights);
        if !allows(permitted, access.kind) {
            return Err(context.error(access, error_code::PRESENT));
        }
        let mut now = leaf;
        if MARK {
            for (depth, &(address, entry)) in path.iter().enumerate().skip(level).rev() {
                let wanted = entry | if depth == level { marks(access.kind) } else { A };
                if wanted != entry && !tables.compare_exchange_u64(address, entry, wanted) {
                    if attempts < ATTEMPTS {
                        continue 'again;
                    }
                } else if depth == level {
                    now = wanted;
                }
            }
        }
        let offset = size.bytes() - 1;
        let physical = (leaf & ADDRESS & !offset) | (linear & offset);
        return Ok(finish(context, permitted, rights, now, physical, size));
    }
}

/// The 4-byte format: 32-bit paging.
#[inline]
fn short<T: PageTables + ?Sized, const MARK: bool>(
    context: &PagingContext,
    tables: &T,
    linear: u64,
    access: Access,
    pse: bool,
) -> Result<Translation, u32> {
    let mut attempts = 0;
    loop {
        attempts += 1;
        let pde_at = (context.cr3 & 0xffff_f000) + (linear >> 22) * 4;
        let pde = tables.read_u32(pde_at);
        if u64::from(pde) & P == 0 {
            return Err(context.error(access, 0));
        }
        let large = pse && u64::from(pde) & PS != 0;
        let (leaf_at, leaf, rights, physical, size) = if large {
            // PSE-36 (SDM vol. 3 table 4-4): bits 20:13 are address bits 39:32, as far as MAXPHYADDR reaches.
            let bits = u32::from(context.physical_bits).clamp(32, 40);
            let reserved = (1 << 22) - (1 << (bits - 19));
            if pde & reserved != 0 {
                return Err(context.error(access, error_code::PRESENT | error_code::RESERVED));
            }
            let frame = u64::from(pde & 0xffc0_0000) | (u64::from(pde >> 13 & 0xff) << 32);
            (pde_at, pde, u64::from(pde), frame | (linear & 0x3f_ffff), PageSize::Size4M)
        } else {
            let pte_at = u64::from(pde & 0xffff_f000) + ((linear >> 12) & 1023) * 4;
            let pte = tables.read_u32(pte_at);
            if u64::from(pte) & P == 0 {
                return Err(context.error(access, 0));
            }
            let frame = u64::from(pte & 0xffff_f000);
            (pte_at, pte, u64::from(pde & pte), frame | (linear & 0xfff), PageSize::Size4K)
        };
        let permitted = context.permits(access, rights);
        if !allows(permitted, access.kind) {
            return Err(context.error(access, error_code::PRESENT));
        }
        let mut now = leaf;
        if MARK {
            let mark = |address, entry: u32, bits: u64| {
                let wanted = entry | bits as u32;
                (wanted == entry || tables.compare_exchange_u32(address, entry, wanted)).then_some(wanted)
            };
            let directory = large || mark(pde_at, pde, A).is_some();
            match mark(leaf_at, leaf, marks(access.kind)) {
                Some(wanted) if directory => now = wanted,
                _ if attempts < ATTEMPTS => continue,
                Some(wanted) => now = wanted,
                None => {}
            }
        }
        return Ok(finish(context, permitted, rights, u64::from(now), physical, size));
    }
}
