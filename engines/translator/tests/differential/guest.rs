//! The translator: a bare vCPU whose page tables show the same window as the native process has.

use memory::GuestRam;
use translator::{Options, Translator, Windowing};
use vcpu::{CpuState, Engine, Entry, Exit};
use x86::classify::Routine;
use x86::{Cr0, Cr4, Efer, Rflags, Segment, SegmentRegister, Xcr0};

use crate::case::{
    CODE, Case, DATA, NO_EXCEPTION, Outcome, PAGE, PageKind, SEGMENTS, SegmentSpec, WINDOW, WINDOW_PAGES,
    Width, note_changes, page_kind,
};
use crate::fpu::{self, Area};
use crate::monitor;

/// Guest-physical address of the window's pages.
const PHYSICAL: u64 = 0x10_0000;
const TABLES: u64 = 0x1000;
const RAM: u64 = 4 << 20;

const PRESENT: u64 = 1;
const WRITABLE: u64 = 2;
const USER: u64 = 4;
const NO_EXECUTE: u64 = 1 << 63;

/// The side under test.
pub struct Guest {
    ram: GuestRam,
    engine: Translator,
    data: &'static [u8],
    /// What the data pages held when last looked at.
    seen: Vec<u8>,
    /// The program that stands in the code pages.
    program: Option<Case>,
}

impl Guest {
    /// `data` is the content of the data pages before each case.
    pub fn new(data: &'static [u8], cache_bytes: usize, windows: Windowing) -> Self {
        let ram = GuestRam::allocate(RAM).expect("RAM");
        let [top, directories, directory, table] = [0, 1, 2, 3].map(|n| TABLES + n * PAGE);
        let link = PRESENT | WRITABLE | USER;
        // One chain of tables serves the window and its alias.
        for slot in [0, 0xa0] {
            ram.write_u64(top + slot * 8, directories | link).expect("in RAM");
        }
        ram.write_u64(directories, directory | link).expect("in RAM");
        ram.write_u64(directory + (WINDOW >> 21) * 8, table | link).expect("in RAM");
        for page in 0..WINDOW_PAGES {
            let rights = match page_kind(page) {
                PageKind::Nothing => 0,
                PageKind::Data => PRESENT | USER | WRITABLE | NO_EXECUTE,
                PageKind::ReadOnly => PRESENT | USER | NO_EXECUTE,
                PageKind::Code => PRESENT | USER,
            };
            let slot = (WINDOW >> 12 & 511) + page;
            ram.write_u64(table + slot * 8, (PHYSICAL + page * PAGE) | rights).expect("in RAM");
        }
        for n in 0..2 * PAGE / 2 {
            ram.write(PHYSICAL + CODE - WINDOW + n * 2, &[0x0f, 0x0b]).expect("in RAM");
        }
        ram.write(physical(DATA), data).expect("in RAM");
        let options = Options { cache_bytes, windows, ..Options::default() };
        let engine = Translator::new(ram.clone(), options).expect("engine");
        Self { ram, engine, data, seen: data.to_vec(), program: None }
    }

    /// Puts a case's program into the code pages in the place of the one before, unless it is the same.
    fn place(&mut self, case: &Case) {
        if self.program.is_some_and(|program| program.same_program(case)) {
            return;
        }
        if let Some(before) = self.program.replace(*case) {
            let pads = (before.linear_start()..).map(|at| if at & 1 == 0 { 0x0f } else { 0x0b });
            let pads: Vec<u8> = pads.take(before.bytes().len()).collect();
            self.ram.write(physical(before.linear_start()), &pads).expect("in RAM");
        }
        self.ram.write(physical(case.linear_start()), case.bytes()).expect("in RAM");
    }

    /// Runs one case, which begins with the vector state in `area`. The text says what else than an exception ended it.
    pub fn run(&mut self, case: &Case, area: &Area, outcome: &mut Outcome) -> Option<String> {
        self.place(case);
        for (offset, value) in case.patches {
            self.ram.write(physical(DATA) + u64::from(offset), &value.to_le_bytes()).expect("in RAM");
        }
        let mut cpu = state(case, area);
        let mut remark = None;
        outcome.vector = NO_EXCEPTION;
        outcome.error_code = 0;
        outcome.address = 0;
        loop {
            match self.engine.run(&mut cpu, Entry::Resume) {
                Exit::Kicked => continue,
                Exit::Exception(exception) => {
                    outcome.vector = exception.vector as u64;
                    outcome.error_code = u64::from(exception.error_code.unwrap_or(0));
                    outcome.address = exception.detail;
                }
                Exit::Sensitive(insn) if insn.routine == Routine::Undefined => {
                    outcome.vector = 6;
                }
                Exit::Sensitive(insn) if monitor::carries_out(insn.routine, case.width as u32) => {
                    match monitor::run(&mut cpu, &insn, &self.ram) {
                        Ok(()) => continue,
                        Err(exception) => {
                            outcome.vector = exception.vector as u64;
                            outcome.error_code = u64::from(exception.error_code.unwrap_or(0));
                            outcome.address = exception.detail;
                        }
                    }
                }
                Exit::Sensitive(insn) => {
                    remark = Some(format!("left to the monitor: {}", insn.instruction));
                }
                other => remark = Some(format!("{other:?}")),
            }
            break;
        }
        outcome.gpr = cpu.gpr;
        outcome.rip = cpu.rip;
        outcome.rflags = cpu.rflags.bits();
        outcome.fpu.copy_from_slice(&cpu.fpu.area);
        fpu::normalise(&mut outcome.fpu);
        self.ram.read(physical(DATA), &mut self.seen).expect("in RAM");
        note_changes(self.data, &self.seen, outcome);
        for (offset, _) in outcome.changes() {
            let before = &self.data[*offset as usize..][..8];
            self.ram.write(physical(DATA) + u64::from(*offset), before).expect("in RAM");
        }
        remark
    }
}

fn state(case: &Case, area: &Area) -> CpuState {
    let mut cpu = CpuState::reset();
    cpu.cr0 = Cr0::PE | Cr0::PG | Cr0::NE | Cr0::MP | Cr0::ET | Cr0::WP | Cr0::AM;
    cpu.cr4 = Cr4::PAE | Cr4::OSFXSR | Cr4::OSXMMEXCPT | Cr4::OSXSAVE;
    cpu.xcr0 = Xcr0::from_bits_truncate(fpu::layout().mask);
    cpu.efer = Efer::LME | Efer::LMA | Efer::NXE;
    cpu.cr3 = TABLES;
    cpu.rflags = Rflags::from_bits_truncate(case.rflags) | Rflags::FIXED | Rflags::IF;
    cpu.gpr = case.gpr;
    cpu.rip = case.start;
    cpu.fpu.area[..area.len()].copy_from_slice(area);
    let privilege = if case.ring0 { 0 } else { 3 << 5 };
    if case.width == Width::Bits64 {
        for segment in &mut cpu.segments {
            *segment = Segment {
                base: 0,
                limit: u32::MAX,
                selector: 0x2b,
                attributes: DATA_SEGMENT | Segment::BIG | privilege,
            };
        }
        cpu.segment_mut(SegmentRegister::Cs).attributes = CODE_SEGMENT | Segment::LONG | privilege;
        cpu.segment_mut(SegmentRegister::Fs).base = case.fs_base;
        cpu.segment_mut(SegmentRegister::Gs).base = case.gs_base;
        return cpu;
    }
    for (segment, index) in cpu.segments.iter_mut().zip(case.segments) {
        *segment = described(&SEGMENTS[usize::from(index)], privilege, index);
    }
    cpu
}

fn physical(linear: u64) -> u64 {
    linear - WINDOW + PHYSICAL
}

const CODE_SEGMENT: u16 = DATA_SEGMENT | Segment::EXECUTABLE;
const DATA_SEGMENT: u16 =
    Segment::PRESENT | Segment::CODE_OR_DATA | Segment::READABLE_OR_WRITABLE | Segment::ACCESSED;

fn described(spec: &SegmentSpec, privilege: u16, index: u8) -> Segment {
    let mut attributes = if spec.code { CODE_SEGMENT } else { DATA_SEGMENT };
    let mut set = |bit: u16, on: bool| attributes = attributes & !bit | if on { bit } else { 0 };
    set(Segment::BIG, spec.big);
    set(Segment::READABLE_OR_WRITABLE, spec.accessible);
    if spec.expand_down {
        set(Segment::CONFORMING_OR_EXPAND_DOWN, true);
    }
    Segment {
        base: u64::from(spec.base),
        limit: spec.limit,
        selector: u16::from(index) << 3 | 7,
        attributes: attributes | privilege,
    }
}
