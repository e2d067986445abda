//! A bare vCPU with flat memory, for running short programs under the translator.
#![allow(dead_code)] // Each test crate uses a part of it.

pub mod pages;

use std::sync::Arc;

use host::Stubs;
use iced_x86::code_asm::CodeAssembler;
use memory::GuestRam;
use translator::{Options, Peers, Promotion, Translator, Windowing};
use vcpu::{CpuState, Engine, Entry, Exit};
use x86::classify::Routine;
use x86::{Cr0, Cr4, Efer, Exception, Rflags, Segment, SegmentRegister, Xcr0};

/// Where programs are loaded.
pub const CODE: u64 = 0x1_0000;
/// Where data may stand.
pub const DATA: u64 = 0x20_0000;
/// The initial stack pointer.
pub const STACK: u64 = 0x40_0000;
/// Where real mode has its data.
pub const DATA_LOW: u64 = 0x2_0000;
/// Where real mode has its stack.
pub const STACK_LOW: u64 = 0x5_0000;
const TABLES: u64 = 0x8000;
const RAM: u64 = 16 << 20;

/// Which of ring 3's pages are in windows: all in crates whose names say so, which are links to others' tests: those run once more.
pub const WINDOWS: Windowing = match ends_in(env!("CARGO_CRATE_NAME").as_bytes(), b"_in_windows") {
    true => Windowing::All,
    false => Windowing::Hot,
};

/// Whether ring 3 runs directly, always: in crates whose names say so, which are such links, too.
pub const DIRECTLY: bool = ends_in(env!("CARGO_CRATE_NAME").as_bytes(), b"directly");

const fn ends_in(mut name: &[u8], end: &[u8]) -> bool {
    while name.len() > end.len() {
        (_, name) = name.split_at(1);
    }
    let mut n = 0;
    while n < name.len() && name[n] == end[n] {
        n += 1;
    }
    n == end.len()
}

/// A vCPU in 64-bit mode, ring 0, with the first gigabyte mapped to itself in one page.
pub struct Bench {
    pub ram: GuestRam,
    pub cpu: CpuState,
    pub engine: Translator,
    bits: u32,
}

impl Bench {
    /// A new one with nothing loaded.
    pub fn long_mode() -> Self {
        Self::long_mode_with(Options { windows: WINDOWS, ..Options::default() })
    }

    /// The same with an engine made otherwise.
    pub fn long_mode_with(options: Options) -> Self {
        let ram = GuestRam::allocate(RAM).expect("RAM");
        Self::on(&Peers::new(1), &ram, options)
    }

    /// As many as that of one machine.
    pub fn several<const N: usize>() -> [Self; N] {
        let (peers, ram) = (Peers::new(N), GuestRam::allocate(RAM).expect("RAM"));
        std::array::from_fn(|_| Self::on(&peers, &ram, Options { windows: WINDOWS, ..Options::default() }))
    }

    fn on(peers: &Arc<Peers>, ram: &GuestRam, options: Options) -> Self {
        let ram = ram.clone();
        ram.write_u64(TABLES, (TABLES + 0x1000) | 7).expect("in RAM");
        ram.write_u64(TABLES + 0x1000, 0x87).expect("in RAM");
        let mut cpu = CpuState::reset();
        cpu.cr0 = Cr0::PE | Cr0::PG | Cr0::NE | Cr0::MP | Cr0::ET | Cr0::WP;
        cpu.cr4 = Cr4::PAE | Cr4::PGE | Cr4::OSFXSR | Cr4::OSXMMEXCPT | Cr4::OSXSAVE;
        cpu.xcr0 = Xcr0::X87 | Xcr0::SSE | Xcr0::AVX;
        cpu.efer = Efer::LME | Efer::LMA | Efer::NXE;
        cpu.cr3 = TABLES;
        let data =
            Segment::PRESENT | Segment::CODE_OR_DATA | Segment::READABLE_OR_WRITABLE | Segment::ACCESSED;
        for segment in &mut cpu.segments {
            *segment = Segment { base: 0, limit: u32::MAX, selector: 16, attributes: data | Segment::BIG };
        }
        cpu.segment_mut(SegmentRegister::Cs).attributes = data | Segment::EXECUTABLE | Segment::LONG;
        cpu.gpr[4] = STACK;
        cpu.rip = CODE;
        let engine = Translator::among(peers, ram.clone(), options).expect("engine");
        let mut bench = Self { ram, cpu, engine, bits: 64 };
        if DIRECTLY {
            bench.run_directly();
        }
        bench
    }

    /// Lets ring 3 run directly, if the vCPU is brought there: it has the selectors that Linux has, and what is mapped to itself
    /// is so in small pages, since there is no direct execution from larger ones.
    pub fn run_directly(&mut self) {
        const DIRECTORY: u64 = 0xf0_0000;
        const ALL: u64 = 0x67;
        for large in RAM >> 21..512 {
            self.ram.write_u64(DIRECTORY + large * 8, large << 21 | 0x80 | ALL).expect("in RAM");
        }
        for large in 0..RAM >> 21 {
            let table = DIRECTORY + (large + 1) * 0x1000;
            self.ram.write_u64(DIRECTORY + large * 8, table | ALL).expect("in RAM");
            let entries = (0..512).map(|n| ((large << 21 | n << 12) | ALL).to_le_bytes());
            let bytes: Vec<u8> = entries.flatten().collect();
            self.ram.write(table, &bytes).expect("in RAM");
        }
        self.ram.write_u64(TABLES + 0x1000, DIRECTORY | ALL).expect("in RAM");
        let host = Xcr0::from_bits_truncate(host::cpu::xcr0());
        self.cpu.xcr0 = host & (Xcr0::X87 | Xcr0::SSE | Xcr0::AVX | Xcr0::AVX512);
        self.cpu.cr4.set(Cr4::FSGSBASE, host::cpu::programs_set_bases());
        self.cpu.tr.selector = 0x40;
        self.cpu.rflags |= Rflags::IF;
        for (segment, selector) in self.cpu.segments.iter_mut().zip([0, 0x33, 0x2b, 0, 0, 0]) {
            segment.selector = selector;
        }
        let stubs = Stubs::start(2).expect("processes to run ring 3 in");
        self.engine.set_stubs(&Arc::new(stubs), Promotion::Always);
    }

    /// A vCPU in real mode: DS at [`DATA_LOW`], ES 64 KiB behind it, SS at [`STACK_LOW`], the code at offset 0 of
    /// CS.
    pub fn real_mode() -> Self {
        let mut bench = Self::long_mode();
        bench.bits = 16;
        let cpu = &mut bench.cpu;
        let fpu = cpu.fpu.clone();
        *cpu = CpuState { fpu, ..CpuState::reset() };
        let bases = [DATA_LOW + 0x1_0000, CODE, STACK_LOW, DATA_LOW, DATA_LOW, DATA_LOW];
        for (segment, base) in cpu.segments.iter_mut().zip(bases) {
            (segment.base, segment.selector) = (base, (base >> 4) as u16);
        }
        cpu.gpr = [0; 16];
        cpu.gpr[4] = 0x1000;
        cpu.rip = 0;
        bench
    }

    /// A vCPU in protected mode without paging, all segments flat and of this width.
    pub fn protected(bits: u32) -> Self {
        let mut bench = Self::real_mode();
        bench.bits = bits;
        let cpu = &mut bench.cpu;
        cpu.cr0 |= Cr0::PE;
        for segment in &mut cpu.segments {
            (segment.base, segment.limit, segment.selector) = (0, u32::MAX, 16);
            if bits == 32 {
                segment.attributes |= Segment::BIG;
            }
        }
        cpu.gpr[4] = if bits == 32 { STACK } else { 0x8000 };
        cpu.rip = CODE;
        if bits == 16 {
            let cs = cpu.segment_mut(SegmentRegister::Cs);
            (cs.base, cs.limit) = (CODE, 0xffff);
            cpu.rip = 0;
        }
        bench
    }

    /// Loads a program; it ends with HLT.
    pub fn load(&mut self, program: impl FnOnce(&mut CodeAssembler)) {
        let start = self.cpu.rip;
        let code = assemble(self.bits, start, |a| {
            program(a);
            a.hlt().expect("hlt");
        });
        self.ram.write(CODE, &code).expect("in RAM");
    }

    /// Loads bytes where the program starts.
    pub fn load_bytes(&mut self, bytes: &[u8]) {
        self.ram.write(CODE, bytes).expect("in RAM");
    }

    /// Runs to an exception. A write to code that has been translated kicks the engine first.
    pub fn fault(&mut self) -> Exception {
        loop {
            match self.exit() {
                Exit::Kicked => {}
                Exit::Exception(exception) => return exception,
                other => panic!("{other:?} at {:#x}", self.cpu.rip),
            }
        }
    }

    /// Runs to the HLT.
    pub fn run(&mut self) {
        match self.exit() {
            Exit::Sensitive(insn) if insn.routine == Routine::Hlt => {}
            other => panic!("{other:?} at {:#x}", self.cpu.rip),
        }
    }

    /// Runs to the next exit.
    pub fn exit(&mut self) -> Exit {
        self.engine.run(&mut self.cpu, Entry::Resume)
    }
}

/// Assembles for a place and width.
pub fn assemble(bits: u32, at: u64, program: impl FnOnce(&mut CodeAssembler)) -> Vec<u8> {
    let mut a = CodeAssembler::new(bits).expect("16, 32 or 64");
    program(&mut a);
    a.assemble(at).expect("assembles")
}
