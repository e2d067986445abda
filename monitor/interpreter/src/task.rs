//! Hardware task switches (SDM vol. 3 ch. 8; APM vol. 2 ch. 12.3): by a far jump or call to a task state segment or
//! a task gate, by a task gate in the interrupt table, and by IRET with NT set.
//!
//! Up to the moment when the task register changes a fault leaves everything as it was and is the old task's. From
//! then on it is the new task's, whose selectors are loaded by then and whose descriptors may not be.

use vcpu::{Environment, Invalidation, Shadow};
use x86::debug::{dr6, dr7};
use x86::{Cr0, Cr4, Exception, Rflags, Segment, SegmentRegister, Vector};

use crate::Context;
use crate::descriptors::{Descriptor, VIRTUAL_8086, is_null, null, rpl, without_rpl};
use crate::gates::invalid_tss;
use crate::memory::Level;

/// By what a task is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Switch {
    /// JMP: the old task is done.
    Jump,
    /// CALL, an interrupt or an exception: the new task returns to the old one.
    Nest,
    /// IRET: the old task is done, the new one goes on.
    Return,
}

/// Where the fields of a task state segment are (SDM vol. 3 figures 8-2 and 8-10).
struct Layout {
    /// Bytes of a register.
    size: usize,
    /// The least limit of a new task's segment.
    limit: u32,
    /// EIP, which EFLAGS, eight general registers and the selectors follow.
    saved: u64,
    /// Selectors from ES on, in the order of [`SegmentRegister`].
    selectors: usize,
    ldt: u64,
}

const TSS16: Layout = Layout { size: 2, limit: 0x2b, saved: 0x0e, selectors: 4, ldt: 0x2a };
const TSS32: Layout = Layout { size: 4, limit: 0x67, saved: 0x20, selectors: 6, ldt: 0x60 };

impl Layout {
    fn of(kind: u8) -> &'static Self {
        if kind & 8 != 0 { &TSS32 } else { &TSS16 }
    }

    /// Bytes that a switch writes to the old task's segment: everything from `saved` to the LDT's selector.
    fn saved_len(&self) -> usize {
        (self.ldt - self.saved) as usize
    }
}

/// Offset of CR3, which only the 32-bit segment has.
const CR3: u64 = 0x1c;
/// Offset of the word whose lowest bit asks for a debug trap.
const TRAP: u64 = 0x64;
/// A descriptor's type bit that says that the task is busy.
const BUSY: u64 = 1 << 41;

/// What a new task's segment holds.
struct Task {
    layout: &'static Layout,
    cr3: Option<u64>,
    rip: u64,
    flags: Rflags,
    gpr: [u64; 8],
    selectors: [u16; 6],
    ldt: u16,
    trap: bool,
}

impl<E: Environment + ?Sized> Context<'_, E> {
    /// IRET with NT set: to the task that the present one is nested in.
    pub(crate) fn return_to_task(&mut self, next_rip: u64) -> Result<(), Exception> {
        let tr = self.cpu.tr;
        let link = self.read_value(self.table_address(tr.base, 0), 2, Level::SYSTEM)? as u16;
        self.switch_task(link, Switch::Return, next_rip, self.cpu.rflags).map(|_| ())
    }

    /// Goes to the task of the TSS that `selector` names. The old task goes on at `rip` with `flags`, should it ever.
    /// Answers the bytes of a value on the new task's stack.
    ///
    /// # Errors
    /// A fault of the old task, as whose instruction has had no effect, or of the new one at its first.
    pub(crate) fn switch_task(
        &mut self,
        selector: u16,
        switch: Switch,
        rip: u64,
        flags: Rflags,
    ) -> Result<usize, Exception> {
        let new = self.task_descriptor(selector, switch)?;
        let mut tr = new.segment(selector);
        let old = self.cpu.tr;
        // What may fault comes before the first write.
        self.read_task(&tr)?;
        let link = self.table_address(tr.base, 0);
        let nests = switch == Switch::Nest;
        if nests {
            self.probe_write(link, 2, Level::SYSTEM)?;
        }
        let freed = if nests { None } else { Some(self.busy_byte(old.selector, false)?) };
        let taken = if switch == Switch::Return { None } else { Some(self.busy_byte(selector, true)?) };
        self.save_task(&old, rip, flags, switch)?;
        for (linear, byte) in freed.into_iter().chain(taken) {
            self.write_value(linear, 1, byte, Level::SYSTEM)?;
        }
        // Two descriptors may name one segment: what is loaded is what has been saved, then.
        let task = self.read_task(&tr)?;
        if nests {
            self.write_value(link, 2, old.selector.into(), Level::SYSTEM)?;
        }
        tr.attributes |= (BUSY >> 40) as u16;
        self.cpu.tr = tr;
        self.cpu.cr0.insert(Cr0::TS);
        self.cpu.dr[7] &= !dr7::LOCAL;
        self.cpu.shadow = Shadow::None;
        self.effects.debug_trap = if task.trap { dr6::BT } else { 0 };
        self.load_task(&task, switch)?;
        Ok(task.layout.size)
    }

    /// The descriptor of a task to go to.
    fn task_descriptor(&mut self, selector: u16, switch: Switch) -> Result<Descriptor, Exception> {
        let returns = switch == Switch::Return;
        let error = if returns { invalid_tss } else { Exception::gp };
        let code = without_rpl(selector);
        if is_null(selector) || selector & 4 != 0 {
            return Err(error(code));
        }
        let descriptor = self.descriptor(selector, error)?;
        let kind = if returns { descriptor.kind() & !2 } else { descriptor.kind() };
        let busy = descriptor.raw & BUSY != 0;
        if descriptor.code_or_data() || !matches!(kind, 1 | 9) || busy != returns {
            return Err(error(code));
        }
        if !descriptor.present() {
            return Err(Exception::with_code(Vector::SegmentNotPresent, code));
        }
        let segment = descriptor.segment(selector);
        if segment.limit < Layout::of(segment.kind()).limit {
            return Err(invalid_tss(code));
        }
        Ok(descriptor)
    }

    fn read_task(&mut self, tr: &Segment) -> Result<Task, Exception> {
        let layout = Layout::of(tr.kind());
        let size = layout.size;
        let mut bytes = [0; 0x68];
        let len = layout.limit as usize + 1;
        self.read_bytes(self.table_address(tr.base, 0), &mut bytes[..len], Level::SYSTEM)?;
        let field = |at: u64, size: usize| {
            let mut value = [0; 8];
            value[..size].copy_from_slice(&bytes[at as usize..at as usize + size]);
            u64::from_le_bytes(value)
        };
        let saved = |index: usize| field(layout.saved + (index * size) as u64, size);
        let mut selectors = [0; 6];
        for (index, selector) in selectors.iter_mut().enumerate().take(layout.selectors) {
            *selector = saved(10 + index) as u16;
        }
        Ok(Task {
            layout,
            cr3: (size == 4).then(|| field(CR3, 4)),
            rip: saved(0),
            flags: Rflags::from_bits_truncate(saved(1)) | Rflags::FIXED,
            gpr: std::array::from_fn(|index| saved(2 + index)),
            selectors,
            ldt: field(layout.ldt, 2) as u16,
            trap: size == 4 && field(TRAP, 2) & 1 != 0,
        })
    }

    /// Writes the present task's registers to its segment.
    fn save_task(
        &mut self,
        tr: &Segment,
        rip: u64,
        mut flags: Rflags,
        switch: Switch,
    ) -> Result<(), Exception> {
        let layout = Layout::of(tr.kind());
        let len = layout.saved_len();
        let code = without_rpl(tr.selector);
        if u64::from(tr.limit) + 1 < layout.saved + len as u64 {
            return Err(invalid_tss(code));
        }
        if switch == Switch::Return {
            flags.remove(Rflags::NT);
        }
        let at = self.table_address(tr.base, layout.saved);
        let mut bytes = [0; 0x40];
        let bytes = &mut bytes[..len];
        // What stands above the selectors stays.
        self.read_bytes(at, bytes, Level::SYSTEM)?;
        let registers = [rip, flags.bits()].into_iter().chain(self.cpu.gpr.into_iter().take(8));
        for (value, slot) in registers.zip(bytes.chunks_exact_mut(layout.size)) {
            slot.copy_from_slice(&value.to_le_bytes()[..layout.size]);
        }
        let slots = bytes.chunks_exact_mut(layout.size).skip(10);
        for (segment, slot) in self.cpu.segments.iter().zip(slots) {
            slot[..2].copy_from_slice(&segment.selector.to_le_bytes());
        }
        self.write_bytes(at, bytes, Level::SYSTEM)
    }

    /// Where the byte with a task's busy bit lies, and what it is to be.
    fn busy_byte(&mut self, selector: u16, busy: bool) -> Result<(u64, u64), Exception> {
        let descriptor = self.descriptor(selector, invalid_tss)?;
        let raw = if busy { descriptor.raw | BUSY } else { descriptor.raw & !BUSY };
        let linear = descriptor.linear + 5;
        self.probe_write(linear, 1, Level::SYSTEM)?;
        Ok((linear, raw >> 40 & 0xff))
    }

    /// Loads everything from the new task's segment; every fault is the new task's.
    fn load_task(&mut self, task: &Task, switch: Switch) -> Result<(), Exception> {
        use SegmentRegister::{Cs, Ds, Es, Fs, Gs, Ss};
        let pae = self.cpu.cr4.contains(Cr4::PAE);
        let cr3 = task.cr3.filter(|_| self.cpu.cr0.contains(Cr0::PG));
        self.cpu.rip = task.rip;
        self.cpu.rflags = task.flags;
        if switch == Switch::Nest {
            self.cpu.rflags.insert(Rflags::NT);
        }
        self.cpu.gpr[..8].copy_from_slice(&task.gpr);
        let cs = task.selectors[Cs as usize];
        let virtual_8086 = self.cpu.rflags.contains(Rflags::VM);
        let cpl = if virtual_8086 { 3 } else { rpl(cs) };
        for (segment, selector) in self.cpu.segments.iter_mut().zip(task.selectors) {
            *segment = if virtual_8086 {
                let base = u64::from(selector) << 4;
                Segment { base, limit: 0xffff, selector, attributes: VIRTUAL_8086 }
            } else {
                null(selector, cpl)
            };
        }
        self.cpu.ldtr = Segment { selector: task.ldt, ..Segment::default() };
        if let Some(cr3) = cr3 {
            if pae {
                self.check_pdptes(cr3)?;
            }
            self.cpu.cr3 = cr3;
            self.effects.invalidate(Invalidation::AddressSpace);
        }
        self.load_task_ldt(task.ldt)?;
        if virtual_8086 {
            return Ok(());
        }
        let segment = self.task_code(cs)?;
        *self.cpu.segment_mut(Cs) = segment;
        let ss = self.stack_segment(task.selectors[Ss as usize], cpl, false, invalid_tss)?;
        *self.cpu.segment_mut(Ss) = ss;
        for register in [Ds, Es, Fs, Gs] {
            let segment = self.task_data(task.selectors[register as usize], cpl)?;
            *self.cpu.segment_mut(register) = segment;
        }
        self.check_target(&segment, task.rip)
    }

    fn load_task_ldt(&mut self, selector: u16) -> Result<(), Exception> {
        if is_null(selector) {
            return Ok(());
        }
        let code = without_rpl(selector);
        if selector & 4 != 0 {
            return Err(invalid_tss(code));
        }
        let descriptor = self.descriptor(selector, invalid_tss)?;
        if descriptor.code_or_data() || descriptor.kind() != 2 || !descriptor.present() {
            return Err(invalid_tss(code));
        }
        self.cpu.ldtr = descriptor.segment(selector);
        Ok(())
    }

    fn task_code(&mut self, selector: u16) -> Result<Segment, Exception> {
        let code = without_rpl(selector);
        if is_null(selector) {
            return Err(invalid_tss(code));
        }
        let mut descriptor = self.descriptor(selector, invalid_tss)?;
        let (rpl, dpl) = (rpl(selector), descriptor.dpl());
        let permitted = if descriptor.conforming() { dpl <= rpl } else { dpl == rpl };
        if !descriptor.is_code() || !permitted {
            return Err(invalid_tss(code));
        }
        if !descriptor.present() {
            return Err(Exception::with_code(Vector::SegmentNotPresent, code));
        }
        self.mark_accessed(&mut descriptor)?;
        Ok(descriptor.segment(selector))
    }

    fn task_data(&mut self, selector: u16, cpl: u8) -> Result<Segment, Exception> {
        if is_null(selector) {
            return Ok(null(selector, 0));
        }
        let code = without_rpl(selector);
        let mut descriptor = self.descriptor(selector, invalid_tss)?;
        let free = descriptor.is_code() && descriptor.conforming();
        if !descriptor.is_readable() || (!free && descriptor.dpl() < cpl.max(rpl(selector))) {
            return Err(invalid_tss(code));
        }
        if !descriptor.present() {
            return Err(Exception::with_code(Vector::SegmentNotPresent, code));
        }
        self.mark_accessed(&mut descriptor)?;
        Ok(descriptor.segment(selector))
    }
}
