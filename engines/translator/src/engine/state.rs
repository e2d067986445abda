//! The vCPU's state on its way into the context and back.

use vcpu::{CpuState, Width};
use x86::paging::PagingContext;
use x86::{Efer, Rflags, Segment, SegmentRegister};

use super::Translator;
use crate::cache::GuestXsave;
use crate::lower::{self, SyscallTarget};
use crate::mode::{ModeWord, VIEW_KERNEL_AC, VIEW_USER};
use crate::status;
use crate::windows::Tables;
use crate::xsave;

impl Translator {
    /// Takes the vCPU's state over.
    pub(super) fn load(&mut self, cpu: &mut CpuState) {
        self.paging = paging_of(cpu, self.options.physical_bits);
        self.watch.follow(cpu);
        self.mode = self.watch.mode(ModeWord::of(cpu));
        self.user = self.mode.view() == VIEW_USER;
        let xcr0 = cpu.xcr0.bits();
        let xsave = match self.cache.xsave {
            known if known.xcr0 == xcr0 => known,
            _ => GuestXsave { xcr0, size: xsave::area_size(cpu.xcr0) },
        };
        let base = if self.mode.is_long() { 0 } else { cpu.segments[1].base };
        let syscall = cpu.efer.contains(Efer::SCE | Efer::LMA).then_some(SyscallTarget {
            rip: cpu.msrs.lstar,
            mask: cpu.msrs.sfmask,
            star: cpu.msrs.star,
        });
        let built_in = xsave != self.cache.xsave || syscall != self.cache.syscall;
        if built_in || base != self.code_base {
            // Built into code, or into what the tables mean; both change next to never.
            if built_in {
                self.cache.clear(&self.guest);
            }
            self.cache.xsave = xsave;
            self.cache.syscall = syscall;
            self.cache.forget_mappings();
            self.code_base = base;
        }
        let mode = self.mode;
        self.cache.prepare_view(mode);
        for sibling in mode.siblings() {
            self.cache.prepare_view(sibling);
        }
        self.enter_space();
        if (self.cache.region.context_ref().tsc_offset == 0) != (cpu.tsc_offset == 0) {
            // What there is of RDTSC is to be judged again.
            self.cache.forget_originals();
        }
        let context = self.cache.region.context();
        context.walk.set_paging(&self.paging);
        context.gpr = cpu.gpr;
        context.flags = status::to_ax(cpu.rflags);
        context.interrupt_flag = u64::from(cpu.rflags.contains(Rflags::IF)) << 1;
        context.direction_flag = u64::from(cpu.rflags.contains(Rflags::DF)) << 2;
        // RF lasts for one instruction, and means something to breakpoints only.
        let resumes = if self.watch.is_on() { Rflags::empty() } else { Rflags::RF };
        context.system_flags = (cpu.rflags - Rflags::STATUS - Rflags::IF - Rflags::DF - resumes).bits();
        context.mode = u64::from(mode.word());
        context.ring_change = 0;
        context.gdt_base = cpu.gdtr.base;
        context.slow_return = u64::from(lower::returns_slowly(cpu));
        context.kernel_gs_base = cpu.msrs.kernel_gs_base;
        context.tsc_aux = cpu.msrs.tsc_aux;
        context.control = [cpu.cr0.bits(), 0, cpu.cr2, cpu.cr3, cpu.cr4.bits()];
        context.tsc_offset = cpu.tsc_offset;
        context.fpu = cpu.fpu.area.as_mut_ptr() as u64;
        for (n, segment) in cpu.segments.iter().enumerate() {
            context.base[n] = segment.base;
            context.selector[n] = u64::from(segment.selector);
            // Code of 64-bit mode asks for none.
            if !mode.is_long() {
                (context.readable[n], context.writable[n]) = limits(segment, mode);
            }
        }
    }

    /// Takes up again what was known of the address space, if it has been left since.
    fn enter_space(&mut self) {
        let entries = self.cache.region.context_ref().kernel_entries;
        let withheld = self.tlb.direct.enter(self.paging.cr3, entries);
        self.cache.withhold(withheld);
        if !withheld {
            let fetch = &mut self.fetch;
            self.cache.enter_space(&self.guest, &self.paging, |at, large| fetch.note(at, true, large));
        }
        let tables = Tables { guest: &self.guest, paging: &self.paging };
        self.tlb.enter_space(&mut self.cache.region, tables);
    }

    /// Gives it back.
    pub(super) fn store(&mut self, cpu: &mut CpuState, rip: u64) {
        cpu.gpr = self.cache.region.context().gpr;
        cpu.rip = rip;
        cpu.rflags = self.rflags();
        let context = self.cache.region.context();
        cpu.msrs.kernel_gs_base = context.kernel_gs_base;
        for segment in [SegmentRegister::Fs, SegmentRegister::Gs] {
            cpu.segment_mut(segment).base = context.base[segment as usize];
        }
        let change = context.ring_change as u32;
        if matches!(change, lower::ENTERED | lower::RETURNED) {
            let (cs, ss) = lower::selectors(cpu.msrs.star, change);
            let ring = if change == lower::ENTERED { 0 } else { 3 };
            cpu.load_flat_segments(cs, ss, Width::Long, ring);
        }
    }

    /// Takes note of a change of mode inside generated code.
    pub(super) fn follow_mode(&mut self) {
        self.mode = ModeWord::from_word(self.cache.region.context().mode);
        self.user = self.mode.view() == VIEW_USER;
        self.paging.ac = self.mode.view() == VIEW_KERNEL_AC;
    }

    pub(super) fn set_mode(&mut self, mode: ModeWord) {
        self.mode = mode;
        self.cache.region.context().mode = u64::from(mode.word());
    }

    /// RFLAGS, put together from where its parts are kept.
    pub(crate) fn rflags(&mut self) -> Rflags {
        let context = self.cache.region.context();
        let mut flags = status::from_ax(context.flags) | Rflags::from_bits_retain(context.system_flags);
        flags.set(Rflags::IF, context.interrupt_flag != 0);
        flags.set(Rflags::DF, context.direction_flag != 0);
        flags | Rflags::FIXED
    }
}

pub(super) fn paging_of(cpu: &CpuState, physical_bits: u8) -> PagingContext {
    PagingContext::new(cpu.cr0, cpu.cr3, cpu.cr4, cpu.efer, cpu.rflags, physical_bits)
}

/// How many bytes from offset 0 may be read and written without another look at the segment.
fn limits(segment: &Segment, mode: ModeWord) -> (u64, u64) {
    let bytes = u64::from(segment.limit) + 1;
    if mode.mode().is_real_style() {
        return (bytes, bytes);
    }
    let code = segment.has(Segment::EXECUTABLE);
    let expand_down = !code && segment.has(Segment::CONFORMING_OR_EXPAND_DOWN);
    if !segment.is_present() || expand_down {
        return (0, 0);
    }
    let extra = segment.has(Segment::READABLE_OR_WRITABLE);
    let readable = if !code || extra { bytes } else { 0 };
    let writable = if !code && extra { bytes } else { 0 };
    (readable, writable)
}
