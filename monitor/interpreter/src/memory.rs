//! Access to memory by linear address: translation, privilege, pages crossed (SDM vol. 3 ch. 4.6 and 4.7).
//!
//! A value that crosses a page has both pages translated before a byte of it moves, so a page fault leaves
//! nothing half done.

use vcpu::Environment;
use x86::debug::Breakpoints;
use x86::paging::{self, AccessKind, PagingContext};
use x86::{Cr0, Exception, Rflags, Vector};

use crate::Context;
use crate::operand::mask;
use crate::segment_check::long_mode;

/// Bytes of the smallest page.
const PAGE: u64 = 4096;

/// What is done to memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Read.
    Read,
    /// Write, or read and write.
    Write,
}

impl Access {
    fn kind(self) -> AccessKind {
        match self {
            Self::Read => AccessKind::Read,
            Self::Write => AccessKind::Write,
        }
    }
}

/// In whose name memory is accessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Level {
    user: bool,
    implicit: bool,
}

impl Level {
    /// The processor's own accesses to descriptor tables and task states: a supervisor's, whatever the CPL, and
    /// out of reach of EFLAGS.AC.
    pub(crate) const SYSTEM: Self = Self { user: false, implicit: true };

    /// Code at this privilege level.
    pub(crate) fn of(cpl: u8) -> Self {
        Self { user: cpl == 3, implicit: false }
    }
}

impl<E: Environment + ?Sized> Context<'_, E> {
    /// The guest-physical address of a linear one, or the page fault; accessed and dirty bits are set.
    pub(crate) fn translate(&mut self, linear: u64, access: Access, level: Level) -> Result<u64, Exception> {
        let cpu = &*self.cpu;
        if !cpu.cr0.contains(Cr0::PG) {
            return Ok(linear & 0xffff_ffff);
        }
        let physical_bits = self.env.physical_bits();
        let context = PagingContext::new(cpu.cr0, cpu.cr3, cpu.cr4, cpu.efer, cpu.rflags, physical_bits);
        let wanted = paging::Access { kind: access.kind(), user: level.user, implicit: level.implicit };
        match paging::walk(&context, &*self.env, linear, wanted) {
            Ok(translation) => Ok(translation.physical),
            Err(code) => Err(Exception::page_fault(linear, code)),
        }
    }

    /// Notes the data breakpoints that an access of the program's hits, the guest's and a debugger's; the trap comes
    /// behind the instruction.
    #[inline]
    pub(crate) fn watch(&mut self, linear: u64, size: usize, access: Access, level: Level) {
        if level.implicit {
            return;
        }
        let (size, write) = (size as u64, access == Access::Write);
        if let Some(breakpoints) = self.breakpoints() {
            self.effects.debug_trap |= breakpoints.access(linear, size, write);
        }
        if self.effects.points.has_watchpoints() && self.effects.watched.is_none() {
            self.effects.watched = self.effects.points.watch(linear, size, write);
        }
    }

    /// Faults where an access of ring 3 is not aligned and its program wants to know: to `unit` bytes, 2, 4 or 8.
    #[inline]
    pub(crate) fn check_alignment(&self, linear: u64, unit: usize, level: Level) -> Result<(), Exception> {
        let checks = level.user && self.cpu.rflags.contains(Rflags::AC) && self.cpu.cr0.contains(Cr0::AM);
        if checks && !linear.is_multiple_of(unit as u64) {
            return Err(Exception::with_code(Vector::AlignmentCheck, 0));
        }
        Ok(())
    }

    /// The guest's breakpoints, if any is enabled.
    #[inline]
    pub(crate) fn breakpoints(&self) -> Option<Breakpoints> {
        Some(Breakpoints::of(&self.cpu.dr)).filter(Breakpoints::any)
    }

    /// The address after the last byte of a page, as the mode wraps it.
    fn next_page(&self, linear: u64) -> u64 {
        let next = (linear & !(PAGE - 1)).wrapping_add(PAGE);
        if long_mode(self.cpu) { next } else { next & 0xffff_ffff }
    }

    /// Reads bytes of at most one page's length.
    pub(crate) fn read_bytes(&mut self, linear: u64, data: &mut [u8], level: Level) -> Result<(), Exception> {
        self.watch(linear, data.len(), Access::Read, level);
        let first = data.len().min((PAGE - linear % PAGE) as usize);
        let physical = self.translate(linear, Access::Read, level)?;
        let (head, tail) = data.split_at_mut(first);
        if tail.is_empty() {
            if !self.read_words(physical, head) {
                self.env.read_memory(physical, head);
            }
            return Ok(());
        }
        let rest = self.translate(self.next_page(linear), Access::Read, level)?;
        self.env.read_memory(physical, head);
        self.env.read_memory(rest, tail);
        Ok(())
    }

    /// Reads whole aligned words as the page walker does, which is the shortest way to RAM: descriptors, gates and
    /// frames are such. `false`: they are not, or no RAM may have answered.
    fn read_words(&self, physical: u64, data: &mut [u8]) -> bool {
        if !physical.is_multiple_of(8) || !data.len().is_multiple_of(8) {
            return false;
        }
        for (index, bytes) in data.chunks_exact_mut(8).enumerate() {
            let value = self.env.read_u64(physical + index as u64 * 8);
            if value == u64::MAX {
                return false;
            }
            bytes.copy_from_slice(&value.to_le_bytes());
        }
        true
    }

    /// Writes bytes of at most one page's length, all or none.
    pub(crate) fn write_bytes(&mut self, linear: u64, data: &[u8], level: Level) -> Result<(), Exception> {
        self.watch(linear, data.len(), Access::Write, level);
        let first = data.len().min((PAGE - linear % PAGE) as usize);
        let physical = self.translate(linear, Access::Write, level)?;
        let (head, tail) = data.split_at(first);
        if tail.is_empty() {
            self.env.write_memory(physical, head);
            return Ok(());
        }
        let rest = self.translate(self.next_page(linear), Access::Write, level)?;
        self.env.write_memory(physical, head);
        self.env.write_memory(rest, tail);
        Ok(())
    }

    /// Reads a little-endian value of 1, 2, 4 or 8 bytes.
    pub(crate) fn read_value(&mut self, linear: u64, size: usize, level: Level) -> Result<u64, Exception> {
        let mut bytes = [0; 8];
        self.check_alignment(linear, size, level)?;
        self.read_bytes(linear, &mut bytes[..size], level)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Writes a little-endian value of 1, 2, 4 or 8 bytes.
    pub(crate) fn write_value(
        &mut self,
        linear: u64,
        size: usize,
        value: u64,
        level: Level,
    ) -> Result<(), Exception> {
        self.check_alignment(linear, size, level)?;
        self.write_bytes(linear, &(value & mask(size)).to_le_bytes()[..size], level)
    }

    /// Faults as a write of `size` bytes would, and writes nothing.
    pub(crate) fn probe_write(&mut self, linear: u64, size: usize, level: Level) -> Result<(), Exception> {
        self.translate(linear, Access::Write, level)?;
        if linear % PAGE + size as u64 > PAGE {
            self.translate(self.next_page(linear), Access::Write, level)?;
        }
        Ok(())
    }
}
