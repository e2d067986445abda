//! Bounce execution: one mechanism for every access that generated code cannot make itself.
//!
//! The instruction runs natively with its memory operand pointing at a buffer. What it reads is put there
//! before, what it wrote is taken from there after. So devices, straddled pages, pages that hold translated
//! code and masked accesses need no second implementation of any instruction; MOV has one because it is so common.

use iced_x86::{Mnemonic, OpKind, Register};
use vcpu::{CpuState, Mmio};
use x86::Exception;

use super::Slow;
use super::linear::{Access, Target};
use super::locked::is_locked;
use crate::block::Range;
use crate::code::Code;
use crate::decode::GuestInsn;
use crate::engine::Translator;
use crate::lower::access_size;
use crate::regs::is_high_byte;

const PAGE: u64 = 4096;

/// An instruction on its way through the bounce buffer; it may wait for a device between its steps.
#[derive(Debug)]
pub struct Bounce {
    pub(super) insn: GuestInsn,
    code: Code,
    access: Access,
    pages: [Option<Target>; 2],
    /// Offset of the operand from the first bounce page; negative in the leading guard.
    pub(super) at: i64,
    /// The fault of touching an operand that lies nowhere: outside of its segment, or not canonical.
    refused: Option<Exception>,
    step: Step,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Waiting for the device's bytes at this offset of the operand.
    Reading(u32),
    /// Waiting for the device to take the bytes at this offset.
    Writing(u32),
}

/// A part of an operand that one device access moves.
struct Fragment {
    gpa: u64,
    size: u32,
}

impl Translator {
    /// Begins to execute `insn` through the buffer.
    pub(super) fn bounce(&mut self, cpu: &CpuState, insn: GuestInsn, code: Code, access: Access) -> Slow {
        let pages = match self.pages(access) {
            Ok(pages) => pages,
            Err(fault) if decides_itself(&insn) => match self.pages_for_masked(access, fault) {
                Some(pages) => pages,
                None => return Slow::Fault(fault),
            },
            Err(fault) => return Slow::Fault(fault),
        };
        let within = (access.linear & (PAGE - 1)) as i64;
        // An inaccessible page is stood for by a guard page, so that the processor itself decides whether a
        // masked access touches it.
        let straddles = within as u64 + u64::from(access.size) > PAGE;
        let at = match (pages[0].is_some(), pages[1].is_some(), straddles) {
            (true, false, true) => within + PAGE as i64,
            (false, false, true) => within % 64 - PAGE as i64,
            (false, _, _) => within - PAGE as i64,
            _ => within,
        };
        let bounce = Bounce { insn, code, access, pages, at, refused: None, step: Step::Reading(0) };
        self.fill_buffer(&bounce);
        if bounce.access.direction.reads() {
            self.read_devices(cpu, bounce, 0)
        } else {
            self.execute_bounce(cpu, bounce)
        }
    }

    /// The same for an operand that lies nowhere, which only an instruction survives whose mask leaves all of it
    /// out.
    pub(super) fn bounce_nowhere(
        &mut self,
        cpu: &CpuState,
        insn: GuestInsn,
        code: Code,
        refused: Exception,
    ) -> Slow {
        if !decides_itself(&insn) {
            return Slow::Fault(refused);
        }
        let size = access_size(&insn.instruction);
        let bounce = Bounce {
            insn,
            code,
            access: super::access(0, size, insn.direction),
            pages: [None; 2],
            at: -(PAGE as i64),
            refused: Some(refused),
            step: Step::Reading(0),
        };
        self.execute_bounce(cpu, bounce)
    }

    /// Goes on with the device's answer.
    pub(crate) fn bounce_completed(&mut self, cpu: &CpuState, bounce: Bounce, value: u64) -> Slow {
        match bounce.step {
            Step::Reading(offset) => {
                let fragment = bounce.device_fragment(offset);
                let size = fragment.map_or(0, |f| f.size);
                let bytes = value.to_le_bytes();
                let at = (bounce.at + i64::from(offset)) as usize;
                self.cache.region.bounce()[at..at + size as usize].copy_from_slice(&bytes[..size as usize]);
                self.read_devices(cpu, bounce, offset + size)
            }
            Step::Writing(offset) => {
                let size = bounce.device_fragment(offset).map_or(0, |f| f.size);
                self.write_devices(bounce, offset + size)
            }
        }
    }

    /// Reads from RAM what the operand holds; devices follow one by one.
    pub(super) fn fill_buffer(&mut self, bounce: &Bounce) {
        for (offset, len, target) in bounce.parts() {
            if target.host.is_none() {
                continue;
            }
            let at = (bounce.at + offset as i64) as usize;
            // What has a host address is RAM.
            let _ = self.guest.ram.read(target.physical, &mut self.cache.region.bounce()[at..at + len]);
        }
    }

    fn read_devices(&mut self, cpu: &CpuState, mut bounce: Bounce, from: u32) -> Slow {
        let Some(offset) = bounce.next_device_byte(from) else {
            return self.execute_bounce(cpu, bounce);
        };
        let Some(fragment) = bounce.device_fragment(offset) else {
            return self.execute_bounce(cpu, bounce);
        };
        bounce.step = Step::Reading(offset);
        let mmio = Mmio { gpa: fragment.gpa, size: fragment.size as u8, write: None };
        Slow::Device(mmio, Box::new(bounce))
    }

    fn execute_bounce(&mut self, cpu: &CpuState, bounce: Bounce) -> Slow {
        if is_locked(&bounce.insn) && bounce.is_ram() {
            return self.execute_locked(cpu, bounce);
        }
        let before = self.before(&bounce);
        if !self.moves(&bounce)
            && let Err(slow) = self.execute_natively(cpu, &bounce)
        {
            return slow;
        }
        if bounce.access.direction.writes() {
            self.write_back(&bounce, &before);
            self.write_devices(bounce, 0)
        } else {
            Slow::Done(bounce.insn.instruction.next_ip())
        }
    }

    /// Has the processor execute the instruction on the buffer.
    pub(super) fn execute_natively(&mut self, cpu: &CpuState, bounce: &Bounce) -> Result<(), Slow> {
        let buffer = self.cache.region.layout().bounce().wrapping_add_signed(bounce.at);
        let entry =
            self.cache.bounce(&bounce.insn, self.mode, &bounce.code, buffer).ok_or(Slow::Unsupported)?;
        let (gpr, flags) = (self.cache.region.context().gpr, self.cache.region.context().flags);
        let Some(signal) = self.enter_bounce(entry) else { return Ok(()) };
        // What stood in for registers of the guest's.
        let context = self.cache.region.context();
        (context.gpr, context.flags) = (gpr, flags);
        Err(self.bounce_fault(cpu, bounce, signal, buffer))
    }

    /// The one instruction that has a second implementation, since drivers access devices by it: MOV between memory and a
    /// general register or a constant. `false` if it is another, or the operand is not all there.
    fn moves(&mut self, bounce: &Bounce) -> bool {
        let i = &bounce.insn.instruction;
        let is_whole = |register: Register| register.is_gpr() && !is_high_byte(register);
        let (Ok(at), size) = (usize::try_from(bounce.at), bounce.access.size as usize) else { return false };
        if i.mnemonic() != Mnemonic::Mov || !matches!(size, 1 | 2 | 4 | 8) {
            return false;
        }
        let operand = at..at + size;
        match (i.op0_kind(), i.op1_kind()) {
            (OpKind::Register, OpKind::Memory) if is_whole(i.op0_register()) => {
                let mut value = [0; 8];
                value[..size].copy_from_slice(&self.cache.region.bounce()[operand]);
                self.set_register(i.op0_register(), u64::from_le_bytes(value));
            }
            (OpKind::Memory, OpKind::Register) if is_whole(i.op1_register()) => {
                let value = self.register(i.op1_register());
                self.cache.region.bounce()[operand].copy_from_slice(&value.to_le_bytes()[..size]);
            }
            (OpKind::Memory, kind) if kind != OpKind::Register => {
                let value = i.immediate(1);
                self.cache.region.bounce()[operand].copy_from_slice(&value.to_le_bytes()[..size]);
            }
            _ => return false,
        }
        true
    }

    fn bounce_fault(
        &mut self,
        cpu: &CpuState,
        bounce: &Bounce,
        signal: crate::fault::Signal,
        buffer: u64,
    ) -> Slow {
        let start = bounce.access.linear;
        let reach = buffer..buffer + u64::from(bounce.access.size);
        if signal.is_memory() && reach.contains(&signal.address) {
            if let Some(fault) = bounce.refused {
                return Slow::Fault(fault);
            }
            let linear = start.wrapping_add(signal.address - buffer);
            return match self.page(linear, bounce.access.direction.writes()) {
                Err(fault) => Slow::Fault(fault),
                Ok(_) => Slow::Unsupported,
            };
        }
        match signal.exception(cpu) {
            Some(exception) => Slow::Fault(exception),
            None => Slow::Unsupported,
        }
    }

    /// Writes to RAM what the instruction left in the buffer, and drops translations made from the old bytes; of what it may
    /// have left as it was `before`, only what it has not.
    pub(super) fn write_back(&mut self, bounce: &Bounce, before: &[u8]) {
        for (offset, len, target) in bounce.parts() {
            if target.host.is_none() {
                continue;
            }
            let at = (bounce.at + offset as i64) as usize;
            let bytes = &self.cache.region.bounce()[at..at + len];
            match before.get(offset..offset + len) {
                Some(before) => {
                    let bytes = bytes.to_vec();
                    self.write_changes(&bounce.insn, target.physical, before, &bytes);
                }
                None if self.guest.write(target.physical, bytes) => self.has_written(target.physical, len),
                None => {}
            }
        }
    }

    /// The operand as it is in the buffer, where it is there; nothing unless the instruction may leave part of it as it is.
    fn before(&mut self, bounce: &Bounce) -> Vec<u8> {
        if !is_partial(&bounce.insn) {
            return Vec::new();
        }
        let mut before = vec![0; bounce.access.size as usize];
        for (offset, len, _) in bounce.parts() {
            let at = (bounce.at + offset as i64) as usize;
            before[offset..offset + len].copy_from_slice(&self.cache.region.bounce()[at..at + len]);
        }
        before
    }

    /// Writes the elements that the instruction has changed: one that a mask leaves out may be another processor's.
    fn write_changes(&mut self, insn: &GuestInsn, physical: u64, before: &[u8], after: &[u8]) {
        let element = insn.instruction.memory_size().element_size();
        // The old masked moves go by bytes.
        let element = if element.is_power_of_two() && element <= 8 { element } else { 1 };
        // An element that lies in two pages has a piece in each.
        let first = (physical.next_multiple_of(element as u64) - physical) as usize;
        let mut done = 0;
        while done < after.len() {
            let end = (done + if done < first { first } else { element }).min(after.len());
            if before[done..end] != after[done..end] {
                self.write_ram(physical + done as u64, &after[done..end]);
            }
            done = end;
        }
    }

    /// Writes RAM on the guest's behalf; blocks made from these bytes go at once.
    pub(super) fn write_ram(&mut self, physical: u64, bytes: &[u8]) {
        if self.guest.write(physical, bytes) {
            self.has_written(physical, bytes.len());
        }
    }

    /// Drops the blocks made from bytes of one page that have been written on the guest's behalf.
    pub(super) fn has_written(&mut self, physical: u64, len: usize) {
        if self.guest.watcher.watches(physical) {
            self.cache.invalidate(&self.guest, Range { start: physical, len: len as u64 });
        }
    }

    fn write_devices(&mut self, mut bounce: Bounce, from: u32) -> Slow {
        let next = bounce.insn.instruction.next_ip();
        let Some(offset) = bounce.next_device_byte(from) else {
            return Slow::Done(next);
        };
        let Some(fragment) = bounce.device_fragment(offset) else {
            return Slow::Done(next);
        };
        let at = (bounce.at + i64::from(offset)) as usize;
        let size = fragment.size as usize;
        let mut value = [0; 8];
        value[..size].copy_from_slice(&self.cache.region.bounce()[at..at + size]);
        bounce.step = Step::Writing(offset);
        let write = Some(u64::from_le_bytes(value));
        Slow::Device(Mmio { gpa: fragment.gpa, size: fragment.size as u8, write }, Box::new(bounce))
    }

    /// Pages of a masked access some of which fault: those that do are left out. `None` if the fault is not one
    /// of a page.
    fn pages_for_masked(&mut self, access: Access, fault: Exception) -> Option<[Option<Target>; 2]> {
        if fault.vector != x86::Vector::PageFault {
            return None;
        }
        let write = access.direction.writes();
        let next = (access.linear | (PAGE - 1)).wrapping_add(1);
        let straddles = next.wrapping_sub(access.linear) < u64::from(access.size);
        let first = self.page(access.linear, write).ok();
        let second = if straddles { self.page(next, write).ok() } else { None };
        Some([first, second])
    }
}

impl Bounce {
    /// Offset, length and page of each accessible part of the operand.
    pub(super) fn parts(&self) -> impl Iterator<Item = (usize, usize, Target)> + use<> {
        let size = self.access.size as usize;
        let first = size.min((PAGE - (self.access.linear & (PAGE - 1))) as usize);
        let lengths = [(0, first), (first, size - first)];
        let pages = self.pages;
        lengths
            .into_iter()
            .zip(pages)
            .filter_map(|((offset, len), page)| page.filter(|_| len > 0).map(|page| (offset, len, page)))
    }

    /// Whether all of the operand is there, and no device's.
    fn is_ram(&self) -> bool {
        let all =
            self.parts().map(|(_, len, target)| if target.host.is_some() { len } else { 0 }).sum::<usize>();
        self.at >= 0 && all == self.access.size as usize
    }

    /// The first byte from `from` on that a device holds.
    fn next_device_byte(&self, from: u32) -> Option<u32> {
        self.parts()
            .filter(|(_, _, target)| target.host.is_none())
            .map(|(offset, len, _)| (offset as u32, (offset + len) as u32))
            .find(|(_, end)| from < *end)
            .map(|(start, _)| start.max(from))
    }

    /// The device access that begins at `offset`: as much as one access may move.
    fn device_fragment(&self, offset: u32) -> Option<Fragment> {
        self.parts().find_map(|(start, len, target)| {
            let end = (start + len) as u32;
            let inside = target.host.is_none() && (start as u32..end).contains(&offset);
            inside.then(|| Fragment {
                gpa: target.physical + u64::from(offset - start as u32),
                size: largest_power_of_two((end - offset).min(8)),
            })
        })
    }
}

/// Whether the instruction may leave bytes of its operand as they are.
fn is_partial(insn: &GuestInsn) -> bool {
    use iced_x86::Mnemonic as M;
    let i = &insn.instruction;
    i.has_op_mask()
        || matches!(
            i.mnemonic(),
            M::Vmaskmovps
                | M::Vmaskmovpd
                | M::Vpmaskmovd
                | M::Vpmaskmovq
                | M::Maskmovq
                | M::Maskmovdqu
                | M::Vmaskmovdqu
        )
}

fn largest_power_of_two(n: u32) -> u32 {
    1 << n.ilog2()
}

/// Whether the processor has to be asked what a fault of the operand comes to: elements that a mask leaves out may
/// lie in pages that do not exist; the own exceptions of a conversion or an x87 store are found before the store is
/// tried, and may leave it out; and Intel's processors have made the x87 stack an MMX one by then.
fn decides_itself(insn: &GuestInsn) -> bool {
    use iced_x86::Mnemonic as M;
    let i = &insn.instruction;
    let stores_mmx = insn.direction.writes() && (0..i.op_count()).any(|n| i.op_register(n).is_mm());
    is_partial(insn)
        || stores_mmx
        || matches!(i.mnemonic(), M::Vcvtps2ph | M::Fst | M::Fstp | M::Fist | M::Fistp | M::Fisttp | M::Fbstp)
}
