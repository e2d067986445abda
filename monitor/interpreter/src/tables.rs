//! Descriptor-table registers, and the instructions that look at descriptors (SDM vol. 3 ch. 2.4 and 5.10).

use iced_x86::{Instruction, OpKind};
use vcpu::Environment;
use x86::{Exception, Mode, Rflags, Segment, TableRegister, Vector};

use crate::descriptors::{is_null, rpl, without_rpl};
use crate::memory::{Access, Level};
use crate::operand::{mask, width, write, write_gpr};
use crate::segment_check::long_mode;
use crate::{Context, Routed};

/// The two descriptor-table registers without selector.
#[derive(Clone, Copy)]
pub(crate) enum Table {
    Global,
    Interrupt,
}

/// The two with selector.
#[derive(Clone, Copy)]
pub(crate) enum SystemSegment {
    Local,
    Task,
}

impl<E: Environment + ?Sized> Context<'_, E> {
    /// SGDT and SIDT.
    pub(crate) fn store_table(&mut self, insn: &Instruction, table: Table) -> Routed {
        self.check_umip()?;
        let register = match table {
            Table::Global => self.cpu.gdtr,
            Table::Interrupt => self.cpu.idtr,
        };
        /// What checks of alignment ask of such a register in memory (SDM vol. 3 table 6-7).
        const ALIGNED: usize = 4;
        let size = if self.mode() == Mode::Long64 { 10 } else { 6 };
        let mut bytes = [0; 10];
        bytes[..2].copy_from_slice(&register.limit.to_le_bytes());
        bytes[2..].copy_from_slice(&register.base.to_le_bytes());
        let linear = self.memory_operand(insn, 0, size, Access::Write)?;
        self.check_alignment(linear, ALIGNED, self.level())?;
        self.write_bytes(linear, &bytes[..size], self.level())?;
        self.done(insn)
    }

    /// LGDT and LIDT; with 16-bit operands (`narrow`) the base has 24 bits.
    pub(crate) fn load_table(&mut self, insn: &Instruction, table: Table, narrow: bool) -> Routed {
        self.privileged()?;
        let long = self.mode() == Mode::Long64;
        let size = if long { 10 } else { 6 };
        let linear = self.memory_operand(insn, 0, size, Access::Read)?;
        let mut bytes = [0; 16];
        self.read_bytes(linear, &mut bytes[..size], self.level())?;
        let value = u128::from_le_bytes(bytes);
        let (limit, mut base) = (value as u16, (value >> 16) as u64);
        if long && !self.canonical_in_register(base) {
            return Err(Exception::gp(0));
        }
        if narrow && !long {
            base &= 0xff_ffff;
        }
        let register = TableRegister { base, limit };
        match table {
            Table::Global => self.cpu.gdtr = register,
            Table::Interrupt => self.cpu.idtr = register,
        }
        self.done(insn)
    }

    /// #UD where there are no selectors.
    fn protected(&self) -> Result<(), Exception> {
        if self.mode().is_real_style() { Err(Exception::UD) } else { Ok(()) }
    }

    /// SLDT and STR.
    pub(crate) fn store_system_segment(&mut self, insn: &Instruction, which: SystemSegment) -> Routed {
        self.protected()?;
        self.check_umip()?;
        let selector = match which {
            SystemSegment::Local => self.cpu.ldtr.selector,
            SystemSegment::Task => self.cpu.tr.selector,
        };
        self.write_operand(insn, 0, 2, selector.into())?;
        self.done(insn)
    }

    /// LLDT and LTR.
    pub(crate) fn load_system_segment(&mut self, insn: &Instruction, which: SystemSegment) -> Routed {
        self.protected()?;
        self.privileged()?;
        let selector = self.read_operand(insn, 0, 2)? as u16;
        if is_null(selector) {
            match which {
                SystemSegment::Local => {
                    self.cpu.ldtr = Segment { selector, ..Segment::default() };
                    return self.done(insn);
                }
                SystemSegment::Task => return Err(Exception::gp(0)),
            }
        }
        let code = without_rpl(selector);
        if selector & 4 != 0 {
            return Err(Exception::gp(code));
        }
        let descriptor = self.descriptor(selector, Exception::gp)?;
        let long = long_mode(self.cpu);
        let suitable = match which {
            SystemSegment::Local => descriptor.kind() == 2,
            SystemSegment::Task => descriptor.kind() == 9 || (descriptor.kind() == 1 && !long),
        };
        if descriptor.code_or_data() || !suitable {
            return Err(Exception::gp(code));
        }
        let mut segment = descriptor.segment(selector);
        if long {
            let high = self.descriptor_high(selector, Exception::gp)?;
            segment.base |= high << 32;
            if high >> 40 & 0x1f != 0 || !self.canonical_in_register(segment.base) {
                return Err(Exception::gp(code));
            }
        }
        if !descriptor.present() {
            return Err(Exception::with_code(Vector::SegmentNotPresent, code));
        }
        match which {
            SystemSegment::Local => self.cpu.ldtr = segment,
            SystemSegment::Task => {
                const BUSY: u64 = 1 << 41;
                let byte = (descriptor.raw | BUSY) >> 40 & 0xff;
                self.write_value(descriptor.linear + 5, 1, byte, Level::SYSTEM)?;
                segment.attributes |= (BUSY >> 40) as u16;
                self.cpu.tr = segment;
            }
        }
        self.done(insn)
    }

    /// A descriptor that LAR, LSL, VERR or VERW looks at; `None` where the look is refused. Types are the
    /// caller's to judge.
    fn visible(&mut self, selector: u16) -> Result<Option<Look>, Exception> {
        if is_null(selector) {
            return Ok(None);
        }
        let descriptor = match self.descriptor(selector, Exception::gp) {
            Ok(descriptor) => descriptor,
            // A page fault is the guest's to mend; a selector outside the table is the answer "no".
            Err(fault) if fault.vector == Vector::PageFault => return Err(fault),
            Err(_) => return Ok(None),
        };
        let privileged = descriptor.is_code() && descriptor.conforming();
        let level = self.cpu.cpl().max(rpl(selector));
        if !privileged && level > descriptor.dpl() {
            return Ok(None);
        }
        Ok(Some(Look { raw: descriptor.raw, segment: descriptor.segment(selector) }))
    }

    /// LAR (`rights`) and LSL.
    pub(crate) fn look(&mut self, insn: &Instruction, rights: bool) -> Routed {
        self.protected()?;
        let selector = self.read_operand(insn, 1, 2)? as u16;
        let long = long_mode(self.cpu);
        let found = self.visible(selector)?.filter(|look| {
            let kind = look.segment.kind();
            look.segment.has(Segment::CODE_OR_DATA)
                || match kind {
                    2 | 9 | 11 => true,
                    1 | 3 => !long,
                    4 | 5 => rights && !long,
                    12 => rights,
                    _ => false,
                }
        });
        self.cpu.rflags.set(Rflags::ZF, found.is_some());
        if let Some(look) = found {
            let value = if rights { look.raw >> 32 & 0x00f0_ff00 } else { look.segment.limit.into() };
            let destination = insn.op0_register();
            write(self.cpu, destination, value & mask(width(destination)));
        }
        self.done(insn)
    }

    /// VERR and VERW (`writing`).
    pub(crate) fn verify(&mut self, insn: &Instruction, writing: bool) -> Routed {
        self.protected()?;
        let selector = self.read_operand(insn, 0, 2)? as u16;
        let permitted = self.visible(selector)?.is_some_and(|look| {
            let segment = look.segment;
            let code = segment.has(Segment::EXECUTABLE);
            let bit = segment.has(Segment::READABLE_OR_WRITABLE);
            segment.has(Segment::CODE_OR_DATA) && if writing { !code && bit } else { !code || bit }
        });
        self.cpu.rflags.set(Rflags::ZF, permitted);
        self.done(insn)
    }

    pub(crate) fn arpl(&mut self, insn: &Instruction) -> Routed {
        self.protected()?;
        let destination = self.read_operand(insn, 0, 2)? as u16;
        let source = self.read_operand(insn, 1, 2)? as u16;
        let adjust = rpl(destination) < rpl(source);
        let value = if adjust { destination & !3 | source & 3 } else { destination };
        if !adjust {
            // Not written, so that it need not be writable.
        } else if insn.op0_kind() == OpKind::Memory {
            self.write_operand(insn, 0, 2, value.into())?;
        } else {
            // 16 bits, whatever the operand size.
            write_gpr(self.cpu, insn.op0_register().number(), 2, value.into());
        }
        self.cpu.rflags.set(Rflags::ZF, adjust);
        self.done(insn)
    }
}

/// What LAR and the like see.
struct Look {
    raw: u64,
    segment: Segment,
}
