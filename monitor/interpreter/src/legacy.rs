//! Innocuous instructions that a 64-bit host in ring 3 cannot run as they stand: decimal adjustment, SALC,
//! PUSHA, POPA, BOUND, ENTER, CLZERO (SDM vol. 2, APM vol. 3).

use iced_x86::{Instruction, Register};
use vcpu::Environment;
use x86::register::gpr;
use x86::{Exception, Mode, Rflags, SegmentRegister, Vector};

use crate::memory::Access;
use crate::operand::{mask, memory_segment, read, width, write_gpr};
use crate::stack::{Frame, set_pointer};
use crate::{Context, Routed};

impl<E: Environment + ?Sized> Context<'_, E> {
    fn al(&self) -> u8 {
        self.cpu.gpr[gpr::RAX] as u8
    }

    fn set_ax(&mut self, al: u8, ah: u8) {
        let rax = &mut self.cpu.gpr[gpr::RAX];
        *rax = *rax & !0xffff | u64::from(ah) << 8 | u64::from(al);
    }

    /// SF, ZF and PF of a byte.
    fn set_result_flags(&mut self, value: u8) {
        let flags = &mut self.cpu.rflags;
        flags.set(Rflags::SF, value & 0x80 != 0);
        flags.set(Rflags::ZF, value == 0);
        flags.set(Rflags::PF, value.count_ones().is_multiple_of(2));
    }

    /// #UD in 64-bit mode.
    fn not_in_64_bit_mode(&self) -> Result<(), Exception> {
        if self.mode() == Mode::Long64 { Err(Exception::UD) } else { Ok(()) }
    }

    /// AAA, and AAS (`subtract`).
    pub(crate) fn ascii_adjust(&mut self, insn: &Instruction, subtract: bool) -> Routed {
        self.not_in_64_bit_mode()?;
        let ax = self.cpu.gpr[gpr::RAX] as u16;
        let adjust = ax & 15 > 9 || self.cpu.rflags.contains(Rflags::AF);
        let ax = match (adjust, subtract) {
            (false, _) => ax,
            (true, false) => ax.wrapping_add(0x106),
            (true, true) => ax.wrapping_sub(0x106),
        };
        self.cpu.rflags.set(Rflags::AF, adjust);
        self.cpu.rflags.set(Rflags::CF, adjust);
        self.cpu.rflags.remove(Rflags::OF);
        let [al, ah] = ax.to_le_bytes();
        self.set_ax(al & 15, ah);
        self.set_result_flags(al & 15);
        self.done(insn)
    }

    pub(crate) fn aam(&mut self, insn: &Instruction) -> Routed {
        self.not_in_64_bit_mode()?;
        let base = insn.immediate8();
        let al = self.al();
        let (Some(quotient), Some(rest)) = (al.checked_div(base), al.checked_rem(base)) else {
            return Err(Exception::new(Vector::DivideError));
        };
        self.set_ax(rest, quotient);
        self.cpu.rflags.remove(Rflags::CF | Rflags::AF | Rflags::OF);
        self.set_result_flags(rest);
        self.done(insn)
    }

    pub(crate) fn aad(&mut self, insn: &Instruction) -> Routed {
        self.not_in_64_bit_mode()?;
        let ah = (self.cpu.gpr[gpr::RAX] >> 8) as u8;
        let al = self.al().wrapping_add(ah.wrapping_mul(insn.immediate8()));
        self.set_ax(al, 0);
        self.cpu.rflags.remove(Rflags::CF | Rflags::AF | Rflags::OF);
        self.set_result_flags(al);
        self.done(insn)
    }

    /// DAA, and DAS (`subtract`).
    pub(crate) fn decimal_adjust(&mut self, insn: &Instruction, subtract: bool) -> Routed {
        self.not_in_64_bit_mode()?;
        let old = self.al();
        let carry = self.cpu.rflags.contains(Rflags::CF);
        let low = old & 15 > 9 || self.cpu.rflags.contains(Rflags::AF);
        let high = old > 0x99 || carry;
        let mut al = old;
        let mut carried = high;
        let step = |al: u8, by| {
            if subtract { al.wrapping_sub(by) } else { al.wrapping_add(by) }
        };
        if low {
            // DAS may borrow in its first step already.
            carried |= subtract && old < 6;
            al = step(al, 6);
        }
        if high {
            al = step(al, 0x60);
        }
        let rax = &mut self.cpu.gpr[gpr::RAX];
        *rax = *rax & !0xff | u64::from(al);
        self.cpu.rflags.set(Rflags::AF, low);
        self.cpu.rflags.set(Rflags::CF, carried);
        self.cpu.rflags.remove(Rflags::OF);
        self.set_result_flags(al);
        self.done(insn)
    }

    pub(crate) fn salc(&mut self, insn: &Instruction) -> Routed {
        self.not_in_64_bit_mode()?;
        let al = if self.cpu.rflags.contains(Rflags::CF) { 0xff } else { 0 };
        let rax = &mut self.cpu.gpr[gpr::RAX];
        *rax = *rax & !0xff | al;
        self.done(insn)
    }

    pub(crate) fn pusha(&mut self, insn: &Instruction, size: usize) -> Routed {
        self.not_in_64_bit_mode()?;
        let mut frame = Frame::new();
        // RSP among them is as it was before.
        for index in 0..8 {
            frame.push(size, self.cpu.gpr[index]);
        }
        self.push_frame(&frame)?;
        self.done(insn)
    }

    pub(crate) fn popa(&mut self, insn: &Instruction, size: usize) -> Routed {
        self.not_in_64_bit_mode()?;
        let mut values = [0; 8];
        for (index, value) in values.iter_mut().enumerate() {
            *value = self.peek((7 - index) as u64 * size as u64, size)?;
        }
        self.release(8 * size as u64);
        for (index, value) in values.into_iter().enumerate() {
            if index != gpr::RSP {
                write_gpr(self.cpu, index, size, value);
            }
        }
        self.done(insn)
    }

    pub(crate) fn bound(&mut self, insn: &Instruction) -> Routed {
        self.not_in_64_bit_mode()?;
        let register = insn.op0_register();
        let size = width(register);
        let signed = |value: u64| -> i32 { if size == 2 { (value as i16).into() } else { value as i32 } };
        let index = signed(read(self.cpu, register));
        let mut is_outside = false;
        for (bound, outside) in [i32::lt, i32::gt].into_iter().enumerate() {
            // An index below the lower bound needs no upper one, which may be out of reach; AMD's processors read both.
            if is_outside && !self.is_amd() {
                break;
            }
            let linear = self.memory_operand(insn, (bound * size) as u64, size, Access::Read)?;
            let bound = signed(self.read_value(linear, size, self.level())?);
            is_outside |= outside(&index, &bound);
        }
        if is_outside { Err(Exception::new(Vector::BoundRange)) } else { self.done(insn) }
    }

    pub(crate) fn enter_frame(&mut self, insn: &Instruction, size: usize) -> Routed {
        let old_top = self.cpu.gpr[gpr::RSP];
        // What a fault leaves on the stack lies below its top.
        let frame_pointer =
            self.push_display(insn, size).inspect_err(|_| self.cpu.gpr[gpr::RSP] = old_top)?;
        write_gpr(self.cpu, gpr::RBP, size, frame_pointer);
        self.done(insn)
    }

    /// Pushes ENTER's frame pointers one by one, as the frame they are copied from may be the one they go to, and makes
    /// room for locals. Gives the new frame pointer: the stack pointer with whatever stands above its low word, where
    /// only that is the stack's.
    fn push_display(&mut self, insn: &Instruction, size: usize) -> Result<u64, Exception> {
        let locals = u64::from(insn.immediate16());
        let nesting = u64::from(insn.immediate8_2nd() & 31);
        let stack = self.stack_size();
        let rbp = self.cpu.gpr[gpr::RBP];
        self.push(size, rbp)?;
        let frame_pointer = self.cpu.gpr[gpr::RSP];
        // Level 1 pushes the new frame pointer; each one above copies a pointer from the frame before.
        for level in 1..nesting {
            let offset = rbp.wrapping_sub(level * size as u64) & mask(stack);
            let linear = self.linear(SegmentRegister::Ss, offset, size, Access::Read)?;
            let pointer = self.read_value(linear, size, self.level())?;
            self.push(size, pointer)?;
        }
        if nesting > 0 {
            self.push(size, frame_pointer)?;
        }
        // The processor checks that the end of the new frame, locals included, can be written.
        let end = self.cpu.gpr[gpr::RSP].wrapping_sub(locals) & mask(stack);
        let last = self.linear(SegmentRegister::Ss, end, size, Access::Write)?;
        self.probe_write(last, size, self.level())?;
        set_pointer(self.cpu, stack, end);
        Ok(frame_pointer)
    }

    /// CLZERO: the cache line that holds rAX.
    pub(crate) fn clzero(&mut self, insn: &Instruction) -> Routed {
        const LINE: u64 = 64;
        let register = insn.op0_register();
        let (offset, segment) = match register {
            Register::None => (self.cpu.gpr[gpr::RAX], SegmentRegister::Ds),
            register => (read(self.cpu, register), memory_segment(insn)),
        };
        let offset = offset & !(LINE - 1);
        let linear = self.linear(segment, offset, LINE as usize, Access::Write)?;
        self.write_bytes(linear, &[0; LINE as usize], self.level())?;
        self.done(insn)
    }
}
