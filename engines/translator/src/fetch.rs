//! Instruction fetch: from a linear address to guest-physical code, with a small cache of page walks, since
//! every jump-table miss asks.

use vcpu::CpuState;
use x86::Exception;
use x86::paging::{self, Access, AccessKind};

use crate::code::{Code, MOST};
use crate::engine::Translator;
use crate::seen::Seen;

const ENTRIES: usize = 256;

/// Where code lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CodePage {
    /// Guest-physical address of the byte asked for.
    pub physical: u64,
    /// Linear range within which one block may be linked to another: that of the mapping if it survives a
    /// change of address space, else the 4 KiB page.
    pub linkable: (u64, u64),
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    linear: u64,
    view: usize,
    page: CodePage,
    generation: u64,
}

/// The cache of code page walks, and which pages code has been found in.
pub struct FetchCache {
    entries: Box<[Option<Entry>; ENTRIES]>,
    generation: u64,
    /// Where ring 3 has fetched code of the current address space.
    user: Seen,
    /// Where other rings have, of any.
    kernel: Seen,
    /// A ring other than 3 has fetched code through a mapping that ends with its address space.
    local_kernel: bool,
}

impl FetchCache {
    /// An empty one.
    pub fn new() -> Self {
        Self {
            entries: Box::new([None; ENTRIES]),
            generation: 0,
            user: Seen::default(),
            kernel: Seen::default(),
            local_kernel: false,
        }
    }

    /// Whether code of a ring other than 3 may lie elsewhere in another address space; asked before all walks
    /// are forgotten.
    pub fn take_local_kernel(&mut self) -> bool {
        std::mem::take(&mut self.local_kernel)
    }

    /// Forgets all walks.
    pub fn flush(&mut self) {
        self.generation += 1;
    }

    /// The same, as the address space is left: ring 3's code is elsewhere in the next.
    pub fn leave_space(&mut self) {
        self.flush();
        self.user.clear();
    }

    /// The same, and all that was known of where code is.
    pub fn clear(&mut self) {
        self.leave_space();
        self.kernel.clear();
    }

    /// Whether ring 3, or another ring, may have fetched code through the mapping of this page.
    pub fn may_hold_code(&self, linear: u64, user: bool) -> bool {
        if user { self.user.may_hold(linear) } else { self.kernel.may_hold(linear) }
    }

    /// Ring 3, or another ring, has code in this page, which is larger than 4 KiB or not.
    pub fn note(&mut self, linear: u64, user: bool, large: bool) {
        let seen = if user { &mut self.user } else { &mut self.kernel };
        seen.note(linear, large);
    }
}

impl Translator {
    /// Where the code at `rip` lies, or the fault that fetching it raises.
    pub(crate) fn code_page(&mut self, cpu: &CpuState, rip: u64) -> Result<CodePage, Exception> {
        let linear = self.code_linear(cpu, rip)?;
        let slot = (linear >> 12) as usize % ENTRIES;
        let view = self.mode.view();
        if let Some(entry) = self.fetch.entries[slot]
            && entry.linear == linear & !0xfff
            && entry.view == view
            && entry.generation == self.fetch.generation
        {
            let physical = entry.page.physical | linear & 0xfff;
            return Ok(CodePage { physical, ..entry.page });
        }
        let access = Access::explicit(AccessKind::Execute, self.user);
        let found = paging::walk(&self.paging, &self.guest, linear, access)
            .map_err(|code| Exception::page_fault(linear, code))?;
        let bytes = found.size.bytes();
        // A ring-3 page may be global too, but INVLPG of one leaves links alone.
        let reach = if found.global && !self.user { bytes } else { 4096 };
        self.fetch.local_kernel |= !found.global && !self.user;
        let start = linear & !(reach - 1);
        let page = CodePage { physical: found.physical, linkable: (start, start.wrapping_add(reach)) };
        self.fetch.note(linear, self.user, bytes > 4096);
        let entry = Entry {
            linear: linear & !0xfff,
            view,
            page: CodePage { physical: found.physical & !0xfff, ..page },
            generation: self.fetch.generation,
        };
        self.fetch.entries[slot] = Some(entry);
        Ok(page)
    }

    /// The linear address of `rip`, after the checks on instruction fetch.
    pub(crate) fn code_linear(&self, cpu: &CpuState, rip: u64) -> Result<u64, Exception> {
        if self.mode.is_long() {
            return if self.paging.is_canonical(rip) { Ok(rip) } else { Err(Exception::gp(0)) };
        }
        let cs = cpu.segment(x86::SegmentRegister::Cs);
        if rip > u64::from(cs.limit) {
            return Err(Exception::gp(0));
        }
        Ok(cs.base.wrapping_add(rip) & 0xffff_ffff)
    }

    /// Up to 15 bytes of code at `rip`, across a page boundary if need be.
    pub(crate) fn fetch_instruction(&mut self, cpu: &CpuState, rip: u64) -> Result<Code, Exception> {
        let page = self.code_page(cpu, rip)?;
        if let Some(code) = self.guest.instruction(page.physical) {
            return Ok(code);
        }
        let mut bytes = self.guest.code(page.physical, MOST).unwrap_or_default();
        let have = bytes.len();
        if have < MOST && self.cache.decode_one(&Code::new(&bytes), rip, self.mode).is_none() {
            let next = self.code_page(cpu, rip.wrapping_add(have as u64))?;
            bytes.extend(self.guest.code(next.physical, MOST - have).unwrap_or_default());
        }
        Ok(Code::new(&bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_kernels_code_is_where_it_was_in_the_next_address_space() {
        let mut fetch = FetchCache::new();
        [(0x1000, true), (0x2000, false)].into_iter().for_each(|(at, user)| fetch.note(at, user, false));
        fetch.flush();
        assert!(fetch.may_hold_code(0x1000, true) && !fetch.may_hold_code(0x1000, false));
        fetch.leave_space();
        assert!(!fetch.may_hold_code(0x1000, true) && fetch.may_hold_code(0x2000, false));
        fetch.clear();
        assert!(!fetch.may_hold_code(0x2000, false));
    }
}
