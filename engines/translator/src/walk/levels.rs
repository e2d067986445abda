//! The walk itself, level by level, for one view and kind of access.

use std::mem::offset_of;

use super::{HUGE, LOGGED, REGIONS, Ram, USER, Walk, Walked};
use crate::context::{Context, ContextField as F};
use crate::detour::{self, Onward};
use crate::emit::{Cond, Emitter, Fixup, Mem, Op, Reg};
use crate::mode::{VIEW_KERNEL, VIEW_KERNEL_AC, View};
use crate::regs::SPILLED;
use crate::tlb_entry::TlbEntry;
use crate::trampoline::emit_tlb_place;

// Bits of page-table entries beside those that the log has, too.
const PRESENT: i32 = 1 << 0;
const ACCESSED: i32 = 1 << 5;
/// Dirty, shifted to where an entry says whether it is writable.
const DIRTY_TO_WRITABLE: u8 = 5;
const LARGE: i32 = 1 << 7;

pub(super) const LINEAR: Reg = Reg::R9;
const ENTRY: Reg = Reg::R10;
const TEMP: Reg = Reg::R11;
/// Bits that all entries have.
const RIGHTS: Reg = Reg::RCX;
/// What the log is to say of the page.
const MARKS: Reg = Reg::RDX;
const PLACE: Reg = Reg::RSI;
/// What the bodies use beside the spilled registers.
const LENT: [Reg; 3] = [RIGHTS, MARKS, PLACE];

/// A field of [`Walk`] by its offset.
pub(super) fn walk(field: usize) -> F {
    F::Walk(field as u16)
}

fn ram(region: usize, field: usize) -> F {
    walk(offset_of!(Walk, ram) + region * size_of::<Ram>() + field)
}

/// The walk for one view and kind of access.
pub(super) struct Body<'a> {
    e: &'a mut Emitter,
    view: View,
    write: bool,
    /// Jumps to the engine.
    failed: Vec<Fixup>,
}

impl<'a> Body<'a> {
    pub fn new(e: &'a mut Emitter, view: View, write: bool) -> Self {
        Self { e, view, write, failed: Vec::new() }
    }

    pub fn emit(mut self) {
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
