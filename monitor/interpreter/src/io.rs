//! IN, OUT, INS and OUTS: IOPL and the I/O permission bitmap (SDM vol. 1 ch. 19.5), and repeated string I/O.
//!
//! A repeated instruction is carried out in chunks of at most [`CHUNK`] elements (one, if it is stepped), after each of which
//! interrupts get their turn; registers always tell how far it has come, so a fault in its midst is
//! restartable as on the processor.

use iced_x86::{Instruction, OpKind, Register};
use vcpu::Environment;
use x86::register::gpr;
use x86::{Cr4, Exception, Mode, Rflags, SegmentRegister};

use crate::Outcome::{Done, Repeat};
use crate::memory::{Access, Level};
use crate::operand::{mask, memory_segment, read, width, write, write_gpr};
use crate::{Context, Routed};

/// Elements of string I/O between two looks at waiting interrupts.
const CHUNK: usize = 4096;

/// Bytes of a linear page.
const PAGE: u64 = 4096;

impl<E: Environment + ?Sized> Context<'_, E> {
    /// #GP unless the present code may use `size` ports from `port`.
    fn check_ports(&mut self, port: u16, size: usize) -> Result<(), Exception> {
        let mode = self.mode();
        if mode == Mode::Real {
            return Ok(());
        }
        if mode != Mode::Virtual8086 && self.cpu.cpl() <= self.cpu.rflags.iopl() {
            return Ok(());
        }
        let refused = Err(Exception::gp(0));
        let tr = self.cpu.tr;
        // A 32-bit or 64-bit TSS, available or busy, that reaches to the map's offset at 102.
        if !tr.is_present() || tr.kind() & 0b1101 != 0b1001 || tr.limit < 103 {
            return refused;
        }
        let map = self.read_value(tr.base.wrapping_add(102), 2, Level::SYSTEM)?;
        let at = map + u64::from(port / 8);
        // Two bytes are always read, since ports may straddle one.
        if at + 1 > u64::from(tr.limit) {
            return refused;
        }
        let bits = self.read_value(tr.base.wrapping_add(at), 2, Level::SYSTEM)?;
        let wanted = ((1_u64 << size) - 1) << (port % 8);
        if bits & wanted == 0 { Ok(()) } else { refused }
    }

    /// The port an IN or OUT operand names.
    fn port(&self, insn: &Instruction, operand: u32) -> u16 {
        match insn.op_kind(operand) {
            OpKind::Register => self.cpu.gpr[gpr::RDX] as u16,
            _ => insn.immediate8().into(),
        }
    }

    pub(crate) fn input(&mut self, insn: &Instruction) -> Routed {
        let accumulator = insn.op0_register();
        let size = width(accumulator);
        let port = self.port(insn, 1);
        self.check_ports(port, size)?;
        self.watch_port(port, size);
        let value = self.env.read_port(port, size as u8);
        write(self.cpu, accumulator, value.into());
        self.done(insn)
    }

    pub(crate) fn output(&mut self, insn: &Instruction) -> Routed {
        let accumulator = insn.op1_register();
        let size = width(accumulator);
        let port = self.port(insn, 0);
        self.check_ports(port, size)?;
        self.watch_port(port, size);
        let value = read(self.cpu, accumulator) as u32;
        // The instruction is over before its effect is felt: a write may reset the machine or save its state.
        self.done(insn)?;
        self.env.write_port(port, size as u8, value);
        Ok(Done)
    }

    /// INS (`input`) and OUTS, with or without REP.
    pub(crate) fn string_io(&mut self, insn: &Instruction, input: bool) -> Routed {
        let port = self.cpu.gpr[gpr::RDX] as u16;
        let size = insn.memory_size().size();
        self.check_ports(port, size)?;
        let operand = u32::from(!input);
        let (index, segment, access) = if input {
            (gpr::RDI, SegmentRegister::Es, Access::Write)
        } else {
            (gpr::RSI, memory_segment(insn), Access::Read)
        };
        let address_size = string_address_size(insn, if input { 0 } else { operand });
        let repeated = insn.has_rep_prefix() || insn.has_repne_prefix();
        let step =
            if self.cpu.rflags.contains(Rflags::DF) { (size as u64).wrapping_neg() } else { size as u64 };
        let mut page = None;
        let watched = self.breakpoints().is_some() || self.effects.points.has_watchpoints();
        let chunk = if watched || self.cpu.rflags.contains(Rflags::TF) { 1 } else { CHUNK };
        for _ in 0..chunk {
            let count = self.cpu.gpr[gpr::RCX] & mask(address_size);
            if repeated && count == 0 {
                return self.done(insn);
            }
            let offset = self.cpu.gpr[index] & mask(address_size);
            let linear = self.linear(segment, offset, size, access)?;
            self.transfer(linear, port, size, input, &mut page)?;
            self.watch_port(port, size);
            write_gpr(self.cpu, index, address_size, offset.wrapping_add(step));
            if !repeated {
                return self.done(insn);
            }
            write_gpr(self.cpu, gpr::RCX, address_size, count - 1);
            if count == 1 {
                return self.done(insn);
            }
        }
        Ok(Repeat)
    }

    /// Notes the breakpoints that an access to ports hits.
    fn watch_port(&mut self, port: u16, size: usize) {
        if self.cpu.cr4.contains(Cr4::DE)
            && let Some(breakpoints) = self.breakpoints()
        {
            self.effects.debug_trap |= breakpoints.port(port, size as u64);
        }
    }

    /// Moves one element. `page` holds the linear and physical page of the element before.
    fn transfer(
        &mut self,
        linear: u64,
        port: u16,
        size: usize,
        input: bool,
        page: &mut Option<(u64, u64)>,
    ) -> Result<(), Exception> {
        let access = if input { Access::Write } else { Access::Read };
        let level = self.level();
        let within = linear % PAGE;
        if within + size as u64 > PAGE {
            if input {
                // Reading a port has effects: the memory must be known to take the value first.
                self.probe_write(linear, size, level)?;
                let value = self.env.read_port(port, size as u8);
                return self.write_value(linear, size, value.into(), level);
            }
            let value = self.read_value(linear, size, level)?;
            self.env.write_port(port, size as u8, value as u32);
            return Ok(());
        }
        self.watch(linear, size, access, level);
        let physical = match *page {
            Some((of, physical)) if of == linear - within => physical + within,
            _ => {
                let physical = self.translate(linear, access, level)?;
                *page = Some((linear - within, physical - within));
                physical
            }
        };
        if input {
            let value = self.env.read_port(port, size as u8);
            self.env.write_memory(physical, &value.to_le_bytes()[..size]);
        } else {
            let mut data = [0; 4];
            self.env.read_memory(physical, &mut data[..size]);
            self.env.write_port(port, size as u8, u32::from_le_bytes(data));
        }
        Ok(())
    }
}

/// Address size in bytes of a string operand.
fn string_address_size(insn: &Instruction, operand: u32) -> usize {
    match insn.op_kind(operand) {
        OpKind::MemorySegSI | OpKind::MemoryESDI => 2,
        OpKind::MemorySegESI | OpKind::MemoryESEDI => 4,
        OpKind::MemorySegRSI | OpKind::MemoryESRDI => 8,
        _ => match insn.memory_base() {
            Register::SI | Register::DI => 2,
            Register::ESI | Register::EDI => 4,
            _ => 8,
        },
    }
}
