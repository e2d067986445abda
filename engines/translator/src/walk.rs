//! What a kernel's access leads to whose page the software TLB does not know: routines, generated once per translation cache,
//! that walk the guest's page tables and enter the page, as a processor does by itself.
//!
//! They take the usual case: four levels or five, every accessed bit set and the dirty one, too, if the page is to be written, tables and
//! page in RAM, no code translated from a page to be written. What they do not take goes to the engine, which knows all cases
//! ([`x86::paging`]). What the engine keeps beside the TLB it learns from a log, before it needs to know: see [`crate::tlb`].
//!
//! They are entered by a [detour]. There is one for each view, kind of access and pair of scratch registers, which only puts
//! registers by, and then one body for each view and kind.

use std::mem::offset_of;

use memory::GuestRam;
use x86::paging::{PageSize, PagingContext, PagingMode};

use crate::context::{Context, ContextField as F};
use crate::detour::{self, Onward};
use crate::emit::{Cond, Emitter, Fixup, Mem, Op, Reg};
use crate::mode::{VIEW_KERNEL, VIEW_KERNEL_AC, View};
use crate::regs::SPILLED;
use crate::tlb_entry::TlbEntry;
use crate::trampoline::emit_tlb_place;

/// Pages that the log has room for.
pub const LOGGED: usize = 64;
/// Regions of RAM in which pages are found.
const REGIONS: usize = 2;
/// Bytes from the way into one routine to the next.
const STRIDE: usize = 80;
const VIEWS: [View; 2] = [VIEW_KERNEL, VIEW_KERNEL_AC];

// Bits of page-table entries (SDM vol. 3 tables 4-15 to 4-20).
const PRESENT: i32 = 1 << 0;
const WRITABLE: u32 = 1 << 1;
const USER: u32 = 1 << 2;
const ACCESSED: i32 = 1 << 5;
/// Dirty, shifted to where an entry says whether it is writable.
const DIRTY_TO_WRITABLE: u8 = 5;
const LARGE: i32 = 1 << 7;
const GLOBAL: u32 = 1 << 8;
/// In the log: of a page of 1 GiB.
const HUGE: u32 = 1 << 4;
/// Bits 51:12.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// What the routines go by, as it lies in the context.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Walk {
    /// Host address of the top table; 0 if none may be walked.
    root: u64,
    ram: [Ram; REGIONS],
    /// Where the register is put by that is to hold the host address.
    rest: u64,
    /// Whether there are five levels, not four.
    five: u64,
    /// [`ADDRESS`].
    mask: u64,
    /// [`WRITABLE`] if guest code may write pages without asking.
    writes: u64,
    /// [`USER`] if a kernel's accesses may not reach such pages.
    forbidden: u64,
    /// [`GLOBAL`] if there are such pages.
    global: u64,
    /// How many pages have been logged.
    count: u64,
    log: [Walked; LOGGED],
}

/// A region of RAM; of no length if there is none.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct Ram {
    start: u64,
    len: u64,
    /// Host address less the guest's.
    delta: u64,
    /// Host address of the marks of its pages, a word each: not 0 if somebody watches it.
    watched: u64,
}

/// A page that has been entered, as it lies in the context.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Walked {
    /// Linear address of the page.
    pub linear: u64,
    /// Guest-physical address of the page, and what is to be known of it.
    entry: u64,
}

impl Walked {
    /// Whose view knows it now.
    pub fn view(self) -> View {
        if self.entry as u32 & USER != 0 { VIEW_KERNEL_AC } else { VIEW_KERNEL }
    }

    /// Guest-physical address of the page.
    pub fn physical(self) -> u64 {
        self.entry & ADDRESS
    }

    /// Whether writes may pass.
    pub fn writable(self) -> bool {
        self.entry as u32 & WRITABLE != 0
    }

    /// Whether it survives a write of CR3.
    pub fn global(self) -> bool {
        self.entry as u32 & GLOBAL != 0
    }

    /// Of what size the page is that it is part of.
    pub fn size(self) -> PageSize {
        match (self.entry & TlbEntry::LARGE, self.entry as u32 & HUGE) {
            (0, _) => PageSize::Size4K,
            (_, 0) => PageSize::Size2M,
            _ => PageSize::Size1G,
        }
    }
}

impl Walk {
    /// Tells where RAM is, and whether guest code is alone in writing it.
    pub fn set_ram(&mut self, ram: &GuestRam, alone: bool) {
        for (known, region) in self.ram.iter_mut().zip(ram.regions()) {
            let host = region.host.as_ptr() as u64;
            let watched = ram.watched_marks(region.gpa).map_or(0, |marks| marks as u64);
            let len = if watched == 0 { 0 } else { region.len };
            *known = Ram { start: region.gpa, len, delta: host.wrapping_sub(region.gpa), watched };
        }
        self.mask = ADDRESS;
        self.writes = if alone { WRITABLE.into() } else { 0 };
    }

    /// Tells how addresses are translated.
    pub fn set_paging(&mut self, paging: &PagingContext) {
        let long = matches!(paging.mode, PagingMode::FourLevel | PagingMode::FiveLevel);
        let usual = long && paging.wp && paging.nxe;
        let top = paging.cr3 & ADDRESS;
        let ram = self.ram.iter().find(|ram| top.wrapping_sub(ram.start) < ram.len);
        self.root = ram.filter(|_| usual).map_or(0, |ram| top.wrapping_add(ram.delta));
        self.five = u64::from(paging.mode == PagingMode::FiveLevel);
        self.forbidden = if paging.smap { USER.into() } else { 0 };
        self.global = if paging.pge { GLOBAL.into() } else { 0 };
    }

    /// Whether tables may be walked.
    pub fn is_usual(&self) -> bool {
        self.root != 0
    }

    /// Takes what has been logged.
    pub fn take(&mut self) -> impl Iterator<Item = Walked> + use<> {
        let count = std::mem::take(&mut self.count) as usize;
        self.log.into_iter().take(count)
    }

    /// Forgets it; gives how many pages that were.
    pub fn forget(&mut self) -> u64 {
        std::mem::take(&mut self.count)
    }

    /// How many pages have been logged.
    pub fn logged(&self) -> u64 {
        self.count
    }
}

/// Which routine an access needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Walker {
    view: View,
    write: bool,
    /// Holds the linear address less the tag.
    rest: Reg,
    /// Holds the place of the entry in the TLB.
    place: Reg,
}

impl Walker {
    /// The one for an access whose lookup has failed with these in these registers, if that is one of a kernel's.
    pub fn of(view: View, write: bool, rest: Reg, place: Reg) -> Option<Self> {
        let pair = SPILLED.contains(&rest) && SPILLED.contains(&place) && rest != place;
        (VIEWS.contains(&view) && pair).then_some(Self { view, write, rest, place })
    }

    /// All of them, in the order of their places.
    pub fn all() -> impl Iterator<Item = Self> {
        let kinds = VIEWS.into_iter().flat_map(|view| [false, true].map(|write| (view, write)));
        let pairs = || SPILLED.into_iter().flat_map(|rest| SPILLED.map(|place| (rest, place)));
        kinds.flat_map(move |(view, write)| {
            pairs().map(move |(rest, place)| Self { view, write, rest, place })
        })
    }

    fn index(self) -> usize {
        let scratch = |reg: Reg| SPILLED.iter().position(|one| *one == reg).unwrap_or(0);
        let view = VIEWS.iter().position(|view| *view == self.view).unwrap_or(0);
        let kind = view * 2 + usize::from(self.write);
        (kind * SPILLED.len() + scratch(self.rest)) * SPILLED.len() + scratch(self.place)
    }

    /// Where it stands, if the first is at `start`.
    pub fn address(self, start: u64) -> u64 {
        start + (self.index() * STRIDE) as u64
    }
}

/// Emits all routines; where the first is.
pub fn emit(e: &mut Emitter) -> u64 {
    e.align(64);
    let start = e.here();
    let mut ways_in = Vec::new();
    for walker in Walker::all() {
        let begin = e.offset();
        ways_in.push(emit_way_in(e, walker));
        assert!(e.offset() - begin <= STRIDE, "{} bytes", e.offset() - begin);
        while e.offset() - begin < STRIDE {
            e.bytes(&[0xcc]); // int3
        }
    }
    let kinds = VIEWS.into_iter().flat_map(|view| [false, true].map(|write| (view, write)));
    for ((view, write), ways_in) in kinds.zip(ways_in.chunks(SPILLED.len() * SPILLED.len())) {
        e.align(64);
        ways_in.iter().for_each(|jump| e.fix_here(*jump));
        Body { e, view, write, failed: Vec::new() }.emit();
    }
    start
}

const LINEAR: Reg = Reg::R9;
const ENTRY: Reg = Reg::R10;
const TEMP: Reg = Reg::R11;
/// Bits that all entries have.
const RIGHTS: Reg = Reg::RCX;
/// What the log is to say of the page.
const MARKS: Reg = Reg::RDX;
const PLACE: Reg = Reg::RSI;
/// What the bodies use beside the spilled registers.
const LENT: [Reg; 3] = [RIGHTS, MARKS, PLACE];

/// Puts registers by, and the linear address into its place; gives the jump to the body.
fn emit_way_in(e: &mut Emitter, walker: Walker) -> Fixup {
    let Walker { view, write, rest, place } = walker;
    let tag = if write { TlbEntry::WRITE } else { TlbEntry::READ };
    let table = e.layout().tlb(view) as i32;
    e.op_mem(Op::Add, true, rest, Mem::at(place, table + tag as i32));
    for reg in SPILLED {
        e.op_ctx(Op::Store, true, reg, F::Put(reg.0));
    }
    let put = e.layout().context + F::Put(rest.0).offset() as u64;
    e.set_ctx32(walk(offset_of!(Walk, rest)), put as u32);
    e.mov(LINEAR, rest);
    e.jmp()
}

fn walk(field: usize) -> F {
    F::Walk(field as u16)
}

fn ram(region: usize, field: usize) -> F {
    walk(offset_of!(Walk, ram) + region * size_of::<Ram>() + field)
}

/// The walk for one view and kind of access.
struct Body<'a> {
    e: &'a mut Emitter,
    view: View,
    write: bool,
    /// Jumps to the engine.
    failed: Vec<Fixup>,
}

impl Body<'_> {
    fn emit(mut self) {
        for reg in LENT {
            self.e.op_ctx(Op::Store, true, reg, F::Put(reg.0));
        }
        let straddles = self.check_address();
        self.e.op_ctx(Op::Load, true, ENTRY, walk(offset_of!(Walk, root)));
        self.e.op_reg(Op::Or, true, ENTRY, ENTRY);
        self.fail(Cond::Equal);
        self.e.mov_imm(MARKS, 0);
        self.e.mov_imm(RIGHTS, u32::MAX.into());
        self.e.cmp_ctx8(walk(offset_of!(Walk, five)), 0);
        let four = self.e.jcc(Cond::Equal);
        self.check_canonical(57);
        self.upper_level(48);
        let five = self.e.jmp();
        self.e.fix_here(four);
        self.check_canonical(48);
        self.e.fix_here(five);
        self.upper_level(39);
        let huge = self.level(30);
        let large = self.level(21);
        self.load_entry(12);
        self.e.mov(TEMP, ENTRY);
        self.e.group1(4, false, TEMP, PRESENT | ACCESSED); // and
        self.e.group1(7, false, TEMP, PRESENT | ACCESSED); // cmp
        self.fail(Cond::NotEqual);
        let leaf = self.e.here();
        self.enter_page();
        for (fixup, size, mark) in [(huge, 1 << 30, HUGE), (large, 2 << 20, 0)] {
            self.e.fix_here(fixup);
            self.find_in_large(size, mark);
            self.e.jmp_to(leaf);
        }
        self.e.fix_here(straddles);
        self.find_straddling();
        for fixup in std::mem::take(&mut self.failed) {
            self.e.fix_here(fixup);
        }
        detour::emit_end(self.e, Onward::Slow, put_back);
    }

    fn fail(&mut self, cond: Cond) {
        let fixup = self.e.jcc(cond);
        self.failed.push(fixup);
    }

    /// What does not fit into the log is the engine's; gives the jump for what straddles pages.
    fn check_address(&mut self) -> Fixup {
        self.e.op_ctx(Op::Load, false, ENTRY, F::Note);
        self.e.mov32(TEMP, LINEAR);
        self.e.group1(4, false, TEMP, 0xfff); // and
        self.e.op_mem(Op::Cmp, false, TEMP, detour::last(ENTRY));
        let straddles = self.e.jcc(Cond::Above);
        self.e.cmp_ctx8(walk(offset_of!(Walk, count)), LOGGED as u8);
        self.fail(Cond::Equal);
        straddles
    }

    /// What straddles two pages that follow each other in the host's memory, too, is where the first is. A kernel's map of all
    /// RAM has such pages.
    fn find_straddling(&mut self) {
        let (page, host) = (TEMP, RIGHTS);
        self.e.mov(page, LINEAR);
        self.e.group1(4, true, page, !0xfff); // and
        let addend = self.known(page);
        self.e.op_mem(Op::Load, true, host, addend);
        self.e.group1(0, true, page, 0x1000); // add
        let addend = self.known(page);
        self.e.lea(true, MARKS, Mem::at(host, 0x1000));
        self.e.op_mem(Op::Cmp, true, MARKS, addend);
        self.fail(Cond::NotEqual);
        self.e.group1(4, false, LINEAR, 0xfff); // and
        self.e.lea(true, host, Mem { base: Some(host), index: Some((LINEAR, 1)), disp: 0 });
        self.e.op_ctx(Op::Load, false, MARKS, walk(offset_of!(Walk, rest)));
        self.e.op_mem(Op::Store, true, host, Mem::base(MARKS));
        detour::emit_end(self.e, Onward::Found, put_back);
    }

    /// Fails unless the TLB knows the page; where it says the host address.
    fn known(&mut self, page: Reg) -> Mem {
        let table = self.e.layout().tlb(self.view) as i32;
        let tag = if self.write { TlbEntry::WRITE } else { TlbEntry::READ };
        emit_tlb_place(self.e, PLACE, page);
        self.e.op_mem(Op::Cmp, true, page, Mem::at(PLACE, table + tag as i32));
        self.fail(Cond::NotEqual);
        Mem::at(PLACE, table + TlbEntry::ADDEND as i32)
    }

    /// So is an address that is not canonical with so many bits.
    fn check_canonical(&mut self, bits: u8) {
        self.e.mov(TEMP, LINEAR);
        self.e.shift(7, true, TEMP, bits - 1); // sar
        self.e.group1(0, true, TEMP, 1); // add
        self.e.group1(7, true, TEMP, 1); // cmp
        self.fail(Cond::Above);
    }

    /// A level that knows no pages.
    fn upper_level(&mut self, shift: u8) {
        let page = self.level(shift);
        self.failed.push(page);
    }

    /// From a table to that of the next level; gives the jump for where there is a page instead.
    fn level(&mut self, shift: u8) -> Fixup {
        self.load_entry(shift);
        let page = self.is_table();
        self.find_table();
        page
    }

    /// From a table's host address to the entry in it that counts for the address, and what all have that have been met.
    fn load_entry(&mut self, shift: u8) {
        self.e.mov(TEMP, LINEAR);
        self.e.shift(5, true, TEMP, shift - 3); // shr
        self.e.group1(4, false, TEMP, 0xff8); // and
        let entry = Mem { base: Some(ENTRY), index: Some((TEMP, 1)), disp: 0 };
        self.e.op_mem(Op::Load, true, ENTRY, entry);
        self.e.op_reg(Op::And, false, RIGHTS, ENTRY);
    }

    /// Whether an entry leads to a table; gives the jump for where it leads to a page. What is neither fails.
    fn is_table(&mut self) -> Fixup {
        const TABLE: i32 = PRESENT | ACCESSED;
        self.e.mov(TEMP, ENTRY);
        self.e.group1(4, false, TEMP, TABLE | LARGE); // and
        self.e.group1(7, false, TEMP, TABLE | LARGE); // cmp
        let page = self.e.jcc(Cond::Equal);
        self.e.group1(7, false, TEMP, TABLE);
        self.fail(Cond::NotEqual);
        page
    }

    /// From an entry to the host address of the table that it leads to.
    fn find_table(&mut self) {
        self.e.op_ctx(Op::And, true, ENTRY, walk(offset_of!(Walk, mask)));
        self.by_region(|this, region| {
            this.e.op_ctx(Op::Add, true, ENTRY, ram(region, offset_of!(Ram, delta)));
        });
    }

    /// From the entry of a larger page to one of the part of 4 KiB that is asked for.
    fn find_in_large(&mut self, size: i32, mark: u32) {
        // Bit 12 is one of the memory type's; those between it and the address are reserved.
        self.e.mov(TEMP, ENTRY);
        self.e.group1(4, false, TEMP, (size - 1) & !0x1fff); // and
        self.fail(Cond::NotEqual);
        self.e.group1(4, true, ENTRY, !0x1000); // and
        self.e.mov(TEMP, LINEAR);
        self.e.group1(4, false, TEMP, (size - 1) & !0xfff); // and
        self.e.op_reg(Op::Or, true, ENTRY, TEMP);
        self.e.mov_imm(MARKS, TlbEntry::LARGE | u64::from(mark));
    }

    /// Goes on differently by the region of RAM that the guest-physical address in `ENTRY` is in.
    fn by_region(&mut self, mut then: impl FnMut(&mut Self, usize)) {
        let mut done = Vec::new();
        for region in 0..REGIONS {
            self.e.mov(TEMP, ENTRY);
            self.e.op_ctx(Op::Sub, true, TEMP, ram(region, offset_of!(Ram, start)));
            self.e.op_ctx(Op::Cmp, true, TEMP, ram(region, offset_of!(Ram, len)));
            let outside = self.e.jcc(Cond::NotBelow);
            then(self, region);
            match region + 1 {
                REGIONS => self.failed.push(outside),
                _ => {
                    done.push(self.e.jmp());
                    self.e.fix_here(outside);
                }
            }
        }
        done.into_iter().for_each(|fixup| self.e.fix_here(fixup));
    }

    /// With the entry of a page of 4 KiB, or what would be one: enters it, and goes back.
    fn enter_page(&mut self) {
        if self.view == VIEW_KERNEL {
            self.e.op_ctx(Op::Load, false, TEMP, walk(offset_of!(Walk, forbidden)));
            self.e.op_reg(Op::And, false, TEMP, RIGHTS);
            self.fail(Cond::NotEqual);
        }
        self.e.mov32(TEMP, ENTRY);
        self.e.op_ctx(Op::And, false, TEMP, walk(offset_of!(Walk, global)));
        self.e.op_reg(Op::Or, false, MARKS, TEMP);
        // Writable if all say so, and dirty.
        self.e.mov32(TEMP, ENTRY);
        self.e.shift(5, false, TEMP, DIRTY_TO_WRITABLE); // shr
        self.e.op_reg(Op::And, false, RIGHTS, TEMP);
        self.e.op_ctx(Op::And, false, RIGHTS, walk(offset_of!(Walk, writes)));
        if self.write {
            self.fail(Cond::Equal);
        }
        self.e.op_ctx(Op::And, true, ENTRY, walk(offset_of!(Walk, mask)));
        self.by_region(|this, region| {
            this.e.shift(5, true, TEMP, 9); // shr: eight bytes for a page
            this.e.op_ctx(Op::Add, true, TEMP, ram(region, offset_of!(Ram, watched)));
            this.e.raw_mem(&[0x83], 7, true, Mem::base(TEMP), &[0]); // cmp qword [mark], 0
            let free = this.e.jcc(Cond::Equal);
            match this.write {
                true => {
                    let jump = this.e.jmp();
                    this.failed.push(jump);
                }
                false => this.e.mov_imm(RIGHTS, 0),
            }
            this.e.fix_here(free);
            this.e.mov(TEMP, ENTRY);
            this.e.op_ctx(Op::Add, true, TEMP, ram(region, offset_of!(Ram, delta)));
        });
        self.write_entry();
        self.log();
        detour::emit_end(self.e, Onward::Back, put_back);
    }

    /// The host address of the page is in `TEMP`.
    fn write_entry(&mut self) {
        let table = self.e.layout().tlb(self.view) as i32;
        let field = |field: usize| Mem::at(PLACE, table + field as i32);
        emit_tlb_place(self.e, PLACE, LINEAR);
        self.e.group1(4, true, LINEAR, !0xfff); // and
        self.e.op_reg(Op::Or, false, MARKS, RIGHTS);
        self.e.op_mem(Op::Store, true, LINEAR, field(TlbEntry::READ));
        self.e.op_mem(Op::Store, true, TEMP, field(TlbEntry::ADDEND));
        self.e.mov(TEMP, LINEAR);
        self.e.op_reg(Op::Or, false, RIGHTS, RIGHTS);
        let writable = self.e.jcc(Cond::NotEqual);
        // A page that cannot stand in this slot: see `TlbEntry::empty`.
        self.e.mov32(TEMP, PLACE);
        self.e.shift(4, false, TEMP, TlbEntry::PAGE_OF_PLACE as u8); // shl
        self.e.group1(6, false, TEMP, 0x1000); // xor
        self.e.fix_here(writable);
        self.e.op_mem(Op::Store, true, TEMP, field(TlbEntry::WRITE));
        self.e.mov(TEMP, MARKS);
        self.e.group1(4, false, TEMP, TlbEntry::LARGE as i32); // and
        self.e.op_reg(Op::Or, true, TEMP, ENTRY);
        self.e.op_mem(Op::Store, true, TEMP, field(TlbEntry::PHYSICAL));
    }

    fn log(&mut self) {
        const SHIFT: u8 = size_of::<Walked>().trailing_zeros() as u8;
        let log = self.e.layout().context as usize + offset_of!(Context, walk) + offset_of!(Walk, log);
        let field = |field: usize| Mem::at(PLACE, (log + field) as i32);
        if self.view == VIEW_KERNEL_AC {
            self.e.group1(1, false, MARKS, USER as i32); // or
        }
        self.e.op_reg(Op::Or, true, ENTRY, MARKS);
        self.e.op_ctx(Op::Load, false, PLACE, walk(offset_of!(Walk, count)));
        self.e.shift(4, false, PLACE, SHIFT); // shl
        self.e.op_mem(Op::Store, true, LINEAR, field(offset_of!(Walked, linear)));
        self.e.op_mem(Op::Store, true, ENTRY, field(offset_of!(Walked, entry)));
        self.e.raw_ctx(&[0x83], 0, walk(offset_of!(Walk, count)), &[1]); // add dword [count], 1
    }
}

fn put_back(e: &mut Emitter) {
    for reg in SPILLED.into_iter().chain(LENT) {
        e.op_ctx(Op::Load, true, reg, F::Put(reg.0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_routine_has_its_place() {
        assert!(Walker::all().enumerate().all(|(n, walker)| walker.index() == n));
    }
}
