//! A bare vCPU with flat memory, for running short programs under the translator.

use iced_x86::code_asm::CodeAssembler;
use memory::GuestRam;
use translator::{Options, Translator};
use vcpu::{CpuState, Engine, Entry, Exit};
use x86::classify::Routine;
use x86::{Cr0, Cr4, Efer, Segment, SegmentRegister, Xcr0};

/// Where programs are loaded.
pub const CODE: u64 = 0x1_0000;
/// Where data may stand.
pub const DATA: u64 = 0x20_0000;
/// The initial stack pointer.
pub const STACK: u64 = 0x40_0000;
const TABLES: u64 = 0x8000;
const RAM: u64 = 16 << 20;

/// A vCPU in 64-bit mode, ring 0, with the first gigabyte mapped to itself in one page.
pub struct Bench {
    pub ram: GuestRam,
    pub cpu: CpuState,
    pub engine: Translator,
}

impl Bench {
    /// A new one with nothing loaded.
    pub fn long_mode() -> Self {
        let ram = GuestRam::allocate(RAM).expect("RAM");
        ram.write_u64(TABLES, (TABLES + 0x1000) | 7).expect("in RAM");
        ram.write_u64(TABLES + 0x1000, 0x87).expect("in RAM");
        let mut cpu = CpuState::reset();
        cpu.cr0 = Cr0::PE | Cr0::PG | Cr0::NE | Cr0::MP | Cr0::ET;
        cpu.cr4 = Cr4::PAE | Cr4::OSFXSR | Cr4::OSXMMEXCPT | Cr4::OSXSAVE;
        cpu.xcr0 = Xcr0::X87 | Xcr0::SSE | Xcr0::AVX;
        cpu.efer = Efer::LME | Efer::LMA;
        cpu.cr3 = TABLES;
        let data =
            Segment::PRESENT | Segment::CODE_OR_DATA | Segment::READABLE_OR_WRITABLE | Segment::ACCESSED;
        for segment in &mut cpu.segments {
            *segment = Segment { base: 0, limit: u32::MAX, selector: 16, attributes: data | Segment::BIG };
        }
        cpu.segment_mut(SegmentRegister::Cs).attributes = data | Segment::EXECUTABLE | Segment::LONG;
        cpu.gpr[4] = STACK;
        cpu.rip = CODE;
        let engine = Translator::new(ram.clone(), Options::default()).expect("engine");
        Self { ram, cpu, engine }
    }

    /// Loads a program; it ends with HLT.
    pub fn load(&mut self, program: impl FnOnce(&mut CodeAssembler)) {
        let mut a = CodeAssembler::new(64).expect("64 bits");
        program(&mut a);
        a.hlt().expect("hlt");
        let code = a.assemble(CODE).expect("assembles");
        self.ram.write(CODE, &code).expect("in RAM");
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
