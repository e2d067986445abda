//! From what an instruction addresses to linear addresses and pages, with every check the processor makes.

use iced_x86::{Instruction, Mnemonic, OpKind, Register};
use vcpu::CpuState;
use x86::paging::{self, Access as PageAccess, AccessKind};
use x86::{Exception, Mode, Segment, SegmentRegister};

use crate::access::Direction;
use crate::decode::GuestInsn;
use crate::engine::Translator;
use crate::lower::{access_size, address_bytes};
use crate::tlb::{Page, slot_of};
use crate::windows::Tables;

/// One memory access of an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// Linear address of the first byte.
    pub linear: u64,
    /// Bytes, at least 1.
    pub size: u32,
    /// What is done to them.
    pub direction: Direction,
}

/// What stands behind a guest page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// Guest-physical address of the byte asked for.
    pub physical: u64,
    /// Its host address, or `None` for a device's page.
    pub host: Option<u64>,
    /// The software TLB now lets such an access pass.
    pub fast: bool,
}

impl Translator {
    /// The value of a general register by its iced name, as far as the name reaches.
    pub(crate) fn register(&mut self, register: Register) -> u64 {
        let Some(reg) = crate::regs::number(register) else {
            return 0;
        };
        let value = self.cache.region.context().gpr[usize::from(reg.0)];
        match register.size() {
            1 if crate::regs::is_high_byte(register) => value >> 8 & 0xff,
            1 => value & 0xff,
            2 => value & 0xffff,
            4 => value & 0xffff_ffff,
            _ => value,
        }
    }

    /// The explicit memory operand's offset in its segment.
    pub(super) fn offset_of_operand(&mut self, i: &Instruction) -> u64 {
        let base = i.memory_base();
        let disp = i.memory_displacement64();
        if matches!(base, Register::RIP | Register::EIP) {
            return disp;
        }
        let index = i.memory_index();
        let scaled = self.register(index).wrapping_mul(u64::from(i.memory_index_scale()));
        let sum = self.register(base).wrapping_add(scaled).wrapping_add(disp);
        sum & u64::MAX >> (64 - 8 * address_bytes(i))
    }

    /// The linear address of the explicit memory operand, canonical or not, in 64-bit mode.
    pub(crate) fn address_of_operand(&mut self, i: &Instruction) -> u64 {
        let segment = self.segment_of(i);
        self.offset_of_operand(i).wrapping_add(self.base_in_long_mode(segment))
    }

    /// Generated code changes these bases; the context has them as they are.
    fn base_in_long_mode(&self, segment: Register) -> u64 {
        match segment {
            Register::FS | Register::GS => self.cache.region.context_ref().base[segment.number()],
            _ => 0,
        }
    }

    /// The segment register of the explicit memory operand. 64-bit mode knows prefixes for FS and GS only.
    pub(super) fn segment_of(&self, i: &Instruction) -> Register {
        let segment = i.memory_segment();
        if !self.mode.is_long() || matches!(segment, Register::FS | Register::GS) {
            return segment;
        }
        match i.memory_base() {
            Register::RSP | Register::RBP | Register::ESP | Register::EBP => Register::SS,
            _ => Register::DS,
        }
    }

    /// The access of an explicit memory operand.
    pub(super) fn operand_access(&mut self, cpu: &CpuState, insn: &GuestInsn) -> Result<Access, Exception> {
        let i = &insn.instruction;
        let mut offset = self.offset_of_operand(i);
        let mut size = access_size(i);
        use Mnemonic as M;
        match i.mnemonic() {
            M::Bt | M::Bts | M::Btr | M::Btc if i.op1_kind() == OpKind::Register => {
                let register = i.op1_register();
                let bit = sign_extended(self.register(register), register.size());
                size = register.size() as u32;
                let word = bit >> (size * 8).trailing_zeros();
                offset = offset.wrapping_add((word * i64::from(size)) as u64);
                offset &= u64::MAX >> (64 - 8 * address_bytes(i));
            }
            M::Xlatb => {
                let al = self.register(Register::AL);
                let base = i.memory_base();
                offset = self.register(base).wrapping_add(al);
                offset &= u64::MAX >> (64 - 8 * base.size());
            }
            M::Maskmovq | M::Maskmovdqu | M::Vmaskmovdqu => {
                let rdi = match i.op0_kind() {
                    OpKind::MemorySegEDI => Register::EDI,
                    OpKind::MemorySegDI => Register::DI,
                    _ => Register::RDI,
                };
                offset = self.register(rdi);
                size = if i.mnemonic() == M::Maskmovq { 8 } else { 16 };
                let linear = self.linear(cpu, i.memory_segment(), offset, size, true)?;
                return Ok(Access { linear, size, direction: Direction::ReadWrite });
            }
            M::Xsave
            | M::Xsave64
            | M::Xsaveopt
            | M::Xsaveopt64
            | M::Xsavec
            | M::Xsavec64
            | M::Xrstor
            | M::Xrstor64 => size = self.cache.xsave.size,
            _ => {}
        }
        let linear = self.linear(cpu, self.segment_of(i), offset, size, insn.direction.writes())?;
        Ok(Access { linear, size, direction: insn.direction })
    }

    /// Segmentation: the linear address of `size` bytes at `offset`.
    pub(super) fn linear(
        &self,
        cpu: &CpuState,
        register: Register,
        offset: u64,
        size: u32,
        write: bool,
    ) -> Result<u64, Exception> {
        let number = register.number().min(5);
        let segment = &cpu.segments[number];
        let stack = number == SegmentRegister::Ss as usize;
        let refused = if stack { Exception::ss(0) } else { Exception::gp(0) };
        let last = u64::from(size) - 1;
        if self.mode.is_long() {
            let linear = self.base_in_long_mode(register).wrapping_add(offset);
            let whole =
                self.paging.is_canonical(linear) && self.paging.is_canonical(linear.wrapping_add(last));
            return if whole { Ok(linear) } else { Err(refused) };
        }
        let end = offset + last;
        if !segment_admits(segment, self.mode.mode(), offset, end, write) {
            return Err(refused);
        }
        Ok(segment.base.wrapping_add(offset) & 0xffff_ffff)
    }

    /// The fault of an instruction whose access the processor itself has refused, because no hint knows the
    /// address: #SS or #GP, if that was the reason.
    pub(crate) fn beyond_canonical(&mut self, cpu: &CpuState, insn: &GuestInsn) -> Option<Exception> {
        if !self.mode.is_long() {
            return None;
        }
        let i = &insn.instruction;
        if crate::lower::has_memory(i)
            && let Err(fault) = self.operand_access(cpu, insn)
        {
            return Some(fault);
        }
        let stack = i.is_stack_instruction().then(|| self.register(Register::RSP));
        stack.filter(|rsp| !self.paging.is_canonical(*rsp)).map(|_| Exception::ss(0))
    }

    /// Paging: what stands behind `linear`, entered into the software TLB where it may be.
    pub(crate) fn page(&mut self, linear: u64, write: bool) -> Result<Target, Exception> {
        let kind = if write { AccessKind::Write } else { AccessKind::Read };
        let access = PageAccess::explicit(kind, self.user);
        let found = paging::walk(&self.paging, &self.guest, linear, access)
            .map_err(|code| Exception::page_fault(linear, code))?;
        let physical = found.physical;
        let Some(page) = self.guest.host_page(physical) else {
            return Ok(Target { physical, host: None, fast: false });
        };
        let writable = found.writable && self.guest.admits_writes(physical);
        let entry = Page {
            linear: linear & !0xfff,
            physical: physical & !0xfff,
            host: page,
            readable: found.readable,
            writable,
            global: found.global,
            size: found.size,
        };
        let tables = Tables { guest: &self.guest, paging: &self.paging };
        self.tlb.fill(&mut self.cache.region, tables, self.mode.view(), entry);
        let fast = if write { writable } else { found.readable };
        Ok(Target { physical, host: Some(page + (physical & 0xfff)), fast })
    }

    /// What stands behind `linear`, from the software TLB if it is there.
    pub(super) fn page_again(&mut self, linear: u64, write: bool) -> Result<Target, Exception> {
        let known = self.cache.region.tlb(self.mode.view())[slot_of(linear)];
        let (tag, offset) = (if write { known.write } else { known.read }, linear & 0xfff);
        if tag == linear & !0xfff {
            return Ok(Target {
                physical: known.page() | offset,
                host: Some(known.addend + offset),
                fast: true,
            });
        }
        self.page(linear, write)
    }

    /// The pages behind an access: one, or two where it straddles. The second address is that of the second
    /// page's first byte.
    pub(super) fn pages(&mut self, access: Access) -> Result<[Option<Target>; 2], Exception> {
        let write = access.direction.writes();
        let first = self.page(access.linear, write)?;
        let next = (access.linear | 0xfff).wrapping_add(1);
        let inside = next.wrapping_sub(access.linear);
        if inside >= u64::from(access.size) {
            return Ok([Some(first), None]);
        }
        // In 32-bit modes addresses wrap at 4 GiB.
        let next = if self.mode.is_long() { next } else { next & 0xffff_ffff };
        Ok([Some(first), Some(self.page(next, write)?)])
    }
}

fn segment_admits(segment: &Segment, mode: Mode, offset: u64, end: u64, write: bool) -> bool {
    let limit = u64::from(segment.limit);
    if mode.is_real_style() {
        return end <= limit;
    }
    if !segment.is_present() {
        return false;
    }
    let code = segment.has(Segment::EXECUTABLE);
    let allowed = match (code, write) {
        (true, true) => false,
        (true, false) | (false, true) => segment.has(Segment::READABLE_OR_WRITABLE),
        (false, false) => true,
    };
    let expand_down = !code && segment.has(Segment::CONFORMING_OR_EXPAND_DOWN);
    let inside = if expand_down {
        let top = if segment.has(Segment::BIG) { 0xffff_ffff } else { 0xffff };
        offset > limit && end <= top
    } else {
        end <= limit
    };
    allowed && inside
}

fn sign_extended(value: u64, bytes: usize) -> i64 {
    let unused = 64 - 8 * bytes as u32;
    (value << unused) as i64 >> unused
}
