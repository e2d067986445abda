//! The machine under test.

use std::cell::RefCell;
use std::collections::HashMap;

use iced_x86::{Decoder, DecoderOptions};
use vcpu::{CpuState, Environment, Event, Insn, Signal};
use x86::classify::routine;
use x86::paging::PageTables;
use x86::register::gpr;
use x86::{Cr0, Cr4, Efer, Exception, Rflags, Segment, SegmentRegister, TableRegister};

use crate::{Effects, Outcome, deliver, execute};

/// Where things lie in the machine's memory.
pub(crate) mod layout {
    /// PML4 of 4-level paging; its PDPT, PD and PT follow.
    pub const PML4: u64 = 0x1000;
    /// The page table that maps the first 2 MiB onto themselves, for user and supervisor.
    pub const PT: u64 = 0x4000;
    pub const GDT: u64 = 0x5000;
    pub const IDT: u64 = 0x6000;
    pub const TSS: u64 = 0x7000;
    pub const LDT: u64 = 0x8000;
    /// Top of the stack in use.
    pub const STACK: u64 = 0xa800;
    /// Top of ring 0's stack in the TSS.
    pub const STACK_0: u64 = 0xc800;
    /// Top of the stack of IST 1.
    pub const STACK_IST: u64 = 0xe800;
    pub const CODE: u64 = 0x1_0000;
    pub const DATA: u64 = 0x2_0000;

    pub const CODE64_0: u16 = 0x08;
    pub const DATA_0: u16 = 0x10;
    pub const CODE32_3: u16 = 0x1b;
    pub const DATA_3: u16 = 0x23;
    pub const CODE64_3: u16 = 0x2b;
    /// 16 bytes in long mode.
    pub const TSS_SELECTOR: u16 = 0x30;
    pub const CODE32_0: u16 = 0x40;
    pub const CODE16_0: u16 = 0x48;
    pub const DATA16_0: u16 = 0x50;
    /// A present LDT, 16 bytes in long mode.
    pub const LDT_SELECTOR: u16 = 0x58;
    /// Data, not present.
    pub const ABSENT: u16 = 0x68;
    /// For the test to fill.
    pub const SPARE: u16 = 0x70;
    pub const CONFORMING: u16 = 0x80;
}

const SIZE: usize = 2 << 20;

/// The environment under test.
pub(crate) struct Machine {
    ram: RefCell<Vec<u8>>,
    /// What ports answer; others answer ones.
    pub ports: HashMap<u16, u32>,
    /// Port accesses in order: port, size, value written or `None`.
    pub port_log: Vec<(u16, u8, Option<u32>)>,
    /// Local APIC MSRs that exist.
    pub apic: HashMap<u32, u64>,
    pub task_priority: u8,
    pub tsc: u64,
    pub amd: bool,
    /// Whether tables of five levels are offered.
    pub la57: bool,
}

impl Machine {
    fn new() -> Self {
        Self {
            ram: RefCell::new(vec![0; SIZE]),
            ports: HashMap::new(),
            port_log: Vec::new(),
            apic: HashMap::from([(0x1b, 0xfee0_0900), (0x6e0, 0), (0x80b, 0)]),
            task_priority: 0,
            tsc: 1_000_000,
            amd: true,
            la57: false,
        }
    }

    pub fn peek(&self, gpa: u64, size: usize) -> u64 {
        let mut bytes = [0; 8];
        bytes[..size].copy_from_slice(&self.ram.borrow()[gpa as usize..][..size]);
        u64::from_le_bytes(bytes)
    }

    pub fn poke(&self, gpa: u64, size: usize, value: u64) {
        self.ram.borrow_mut()[gpa as usize..][..size].copy_from_slice(&value.to_le_bytes()[..size]);
    }

    /// All of memory, for a comparison.
    pub fn image(&self) -> Vec<u8> {
        self.ram.borrow().clone()
    }

    /// Replaces the page-table entry of a page below 2 MiB.
    pub fn set_pte(&self, linear: u64, flags: u64) {
        self.poke(layout::PT + (linear >> 12) * 8, 8, (linear & !0xfff) | flags);
    }

    pub fn set_descriptor(&self, selector: u16, raw: u64) {
        self.poke(layout::GDT + u64::from(selector & 0xfff8), 8, raw);
    }
}

impl PageTables for Machine {
    fn read_u32(&self, gpa: u64) -> u32 {
        if gpa + 4 > SIZE as u64 { u32::MAX } else { self.peek(gpa, 4) as u32 }
    }

    fn read_u64(&self, gpa: u64) -> u64 {
        if gpa + 8 > SIZE as u64 { u64::MAX } else { self.peek(gpa, 8) }
    }

    fn compare_exchange_u32(&self, gpa: u64, current: u32, new: u32) -> bool {
        let same = self.read_u32(gpa) == current;
        if same {
            self.poke(gpa, 4, new.into());
        }
        same
    }

    fn compare_exchange_u64(&self, gpa: u64, current: u64, new: u64) -> bool {
        let same = self.read_u64(gpa) == current;
        if same {
            self.poke(gpa, 8, new);
        }
        same
    }
}

impl Environment for Machine {
    fn read_memory(&mut self, gpa: u64, data: &mut [u8]) {
        let ram = self.ram.borrow();
        match ram.get(gpa as usize..gpa as usize + data.len()) {
            Some(bytes) => data.copy_from_slice(bytes),
            None => data.fill(0xff),
        }
    }

    fn write_memory(&mut self, gpa: u64, data: &[u8]) {
        let mut ram = self.ram.borrow_mut();
        if let Some(bytes) = ram.get_mut(gpa as usize..gpa as usize + data.len()) {
            bytes.copy_from_slice(data);
        }
    }

    fn read_port(&mut self, port: u16, size: u8) -> u32 {
        self.port_log.push((port, size, None));
        self.ports.get(&port).copied().unwrap_or(u32::MAX)
    }

    fn write_port(&mut self, port: u16, size: u8, value: u32) {
        self.port_log.push((port, size, Some(value)));
    }

    fn cpuid(&self, leaf: u32, subleaf: u32, osxsave: bool, _xcr0: u64) -> [u32; 4] {
        match (leaf, subleaf) {
            (0, _) if self.amd => {
                let word = |text: &[u8; 4]| u32::from_le_bytes(*text);
                [0xd, word(b"Auth"), word(b"cAMD"), word(b"enti")]
            }
            (0, _) => {
                let word = |text: &[u8; 4]| u32::from_le_bytes(*text);
                [0xd, word(b"Genu"), word(b"ntel"), word(b"ineI")]
            }
            // XSAVE, OSXSAVE, AVX; everything of CR4 in EDX.
            (1, _) => [0xa20f10, 0, 1 << 26 | u32::from(osxsave) << 27 | 1 << 28, 0x178b_fbff],
            // FSGSBASE, TSC_ADJUST, SMEP, SMAP; UMIP, RDPID; SPEC_CTRL.
            (7, 0) => {
                let la57 = u32::from(self.la57) << 16;
                [0, 1 | 1 << 1 | 1 << 7 | 1 << 20, 1 << 2 | la57 | 1 << 22, 1 << 26]
            }
            // x87, SSE, AVX.
            (0xd, 0) => [7, 832, 832, 0],
            // XSAVEOPT, XSAVEC.
            (0xd, 1) => [3, 0, 0, 0],
            (0xd, 2) => [256, 576, 0, 0],
            // SYSCALL, NX, long mode.
            (0x8000_0001, _) => [0, 0, 0, 1 << 11 | 1 << 20 | 1 << 29],
            (0x8000_0008, _) => [if self.la57 { 0x3928 } else { 0x3028 }, 0, 0, 0],
            // Automatic IBRS, on AMD's.
            (0x8000_0021, _) => [u32::from(self.amd) << 8, 0, 0, 0],
            _ => [0; 4],
        }
    }

    fn tsc(&self) -> u64 {
        self.tsc
    }

    fn read_apic_msr(&mut self, msr: u32) -> Option<u64> {
        self.apic.get(&msr).copied()
    }

    fn write_apic_msr(&mut self, msr: u32, value: u64, _tsc_offset: u64) -> Option<()> {
        self.apic.get_mut(&msr).map(|slot| *slot = value)
    }

    fn task_priority(&mut self) -> u8 {
        self.task_priority
    }

    fn set_task_priority(&mut self, priority: u8) {
        self.task_priority = priority;
    }

    fn interrupt_waits(&mut self) -> bool {
        false
    }

    fn acknowledge_interrupt(&mut self) -> Option<u8> {
        None
    }

    fn signal_waits(&self) -> bool {
        false
    }

    fn take_signal(&mut self) -> Option<Signal> {
        None
    }

    fn wait(&mut self) {}

    fn stop_requested(&self) -> bool {
        false
    }
}

/// A vCPU in its machine.
pub(crate) struct Bench {
    pub cpu: CpuState,
    pub machine: Machine,
    pub effects: Effects,
}

/// Attributes of flat segments.
pub(crate) const CODE64: u16 = 0xa09b;
pub(crate) const CODE32: u16 = 0xc09b;
pub(crate) const DATA: u16 = 0xc093;

/// A segment at base 0 and of 4 GiB.
pub(crate) fn flat(selector: u16, attributes: u16) -> Segment {
    let attributes = attributes | (selector & 3) << 5;
    Segment { base: 0, limit: u32::MAX, selector, attributes }
}

impl Bench {
    fn new() -> Self {
        let machine = Machine::new();
        use layout as l;
        // 4-level tables: everything below 2 MiB maps onto itself.
        machine.poke(l::PML4, 8, (l::PML4 + 0x1000) | 0x27);
        machine.poke(l::PML4 + 0x1000, 8, (l::PML4 + 0x2000) | 0x27);
        machine.poke(l::PML4 + 0x2000, 8, l::PT | 0x27);
        for page in 0..512 {
            // Accessed and dirty already, so that tests may compare memory.
            machine.set_pte(page << 12, 0x67);
        }
        for (selector, raw) in [
            (l::CODE64_0, 0x00af_9b00_0000_ffff),
            (l::DATA_0, 0x00cf_9300_0000_ffff),
            (l::CODE32_3, 0x00cf_fb00_0000_ffff),
            (l::DATA_3, 0x00cf_f300_0000_ffff),
            (l::CODE64_3, 0x00af_fb00_0000_ffff),
            (l::TSS_SELECTOR, 0x0000_8900_0000_0067 | l::TSS << 16),
            (l::CODE32_0, 0x00cf_9b00_0000_ffff),
            (l::CODE16_0, 0x0000_9b00_0000_ffff),
            (l::DATA16_0, 0x0000_9300_0000_ffff),
            (l::LDT_SELECTOR, 0x0000_8200_0000_00ff | l::LDT << 16),
            (l::ABSENT, 0x00cf_1300_0000_ffff),
            (l::CONFORMING, 0x00cf_9f00_0000_ffff),
        ] {
            machine.set_descriptor(selector, raw);
        }
        // No I/O permission map: it would begin past the limit.
        machine.poke(l::TSS + 102, 2, 0x68);
        let mut cpu = CpuState::reset();
        cpu.gdtr = TableRegister { base: l::GDT, limit: 0xff };
        cpu.idtr = TableRegister { base: l::IDT, limit: 0xfff };
        cpu.rip = l::CODE;
        cpu.gpr = std::array::from_fn(|index| 0x1111_2222_3333_0000 + index as u64);
        cpu.gpr[gpr::RSP] = l::STACK;
        cpu.tr = Segment { base: l::TSS, limit: 0x67, selector: l::TSS_SELECTOR, attributes: 0x8b };
        cpu.ldtr = Segment::default();
        Self { cpu, machine, effects: Effects::default() }
    }

    fn load_flat(&mut self, cs: Segment, data: u16) {
        for segment in &mut self.cpu.segments {
            *segment = flat(data, DATA);
        }
        *self.cpu.segment_mut(SegmentRegister::Cs) = cs;
    }

    /// 64-bit mode at a privilege level of 0 or 3, paging on.
    pub fn long(cpl: u8) -> Self {
        let mut bench = Self::new();
        bench.cpu.cr0 = Cr0::PE | Cr0::PG | Cr0::WP | Cr0::ET | Cr0::NE;
        bench.cpu.cr4 = Cr4::PAE | Cr4::PGE;
        bench.cpu.cr3 = layout::PML4;
        bench.cpu.efer = Efer::LME | Efer::LMA | Efer::SCE | Efer::NXE;
        if cpl == 0 {
            bench.load_flat(flat(layout::CODE64_0, CODE64), layout::DATA_0);
        } else {
            bench.load_flat(flat(layout::CODE64_3, CODE64), layout::DATA_3);
        }
        bench.machine.poke(layout::TSS + 4, 8, layout::STACK_0);
        bench.machine.poke(layout::TSS + 0x24, 8, layout::STACK_IST);
        bench
    }

    /// 32-bit code in long mode, ring 3.
    pub fn compatibility() -> Self {
        let mut bench = Self::long(3);
        bench.load_flat(flat(layout::CODE32_3, CODE32), layout::DATA_3);
        bench
    }

    /// 32-bit protected mode without paging.
    pub fn protected(cpl: u8) -> Self {
        let mut bench = Self::new();
        bench.cpu.cr0 = Cr0::PE | Cr0::ET | Cr0::NE;
        if cpl == 0 {
            bench.load_flat(flat(layout::CODE32_0, CODE32), layout::DATA_0);
        } else {
            bench.load_flat(flat(layout::CODE32_3, CODE32), layout::DATA_3);
        }
        for register in &mut bench.cpu.gpr {
            *register &= 0xffff_ffff;
        }
        bench.machine.poke(layout::TSS + 4, 4, layout::STACK_0);
        bench.machine.poke(layout::TSS + 8, 2, layout::DATA_0.into());
        bench
    }

    /// Real mode; code at 1000:0, stack at 0000:A800, data at 2000:0.
    pub fn real() -> Self {
        let mut bench = Self::new();
        bench.cpu.idtr = TableRegister { base: 0, limit: 0x3ff };
        bench.paragraphs(0x9b, 0x93);
        bench
    }

    /// Virtual-8086 mode, laid out as [`Self::real`].
    pub fn virtual_8086(iopl: u8) -> Self {
        let mut bench = Self::protected(3);
        bench.cpu.rflags |= Rflags::VM | Rflags::from_bits_truncate(u64::from(iopl) << 12);
        bench.paragraphs(0xf3, 0xf3);
        bench
    }

    fn paragraphs(&mut self, code: u16, data: u16) {
        for register in &mut self.cpu.gpr {
            *register &= 0xffff_ffff;
        }
        let paragraph = |selector: u16, attributes| Segment {
            base: u64::from(selector) << 4,
            limit: 0xffff,
            selector,
            attributes,
        };
        let (cs, ss, ds) = (paragraph(0x1000, code), paragraph(0, data), paragraph(0x2000, data));
        self.cpu.segments = [ds, cs, ss, ds, ds, ds];
        self.cpu.rip = 0;
        self.cpu.gpr[gpr::RSP] = layout::STACK;
    }

    /// Decodes one instruction at RIP and carries it out.
    pub fn run(&mut self, bytes: &[u8]) -> Result<Outcome, Exception> {
        let mode = self.cpu.mode();
        let mut decoder = Decoder::with_ip(mode.code_bits(), bytes, self.cpu.rip, DecoderOptions::NONE);
        let instruction = decoder.decode();
        assert_eq!(instruction.len(), bytes.len(), "{instruction} is shorter than the test means");
        let routine = routine(instruction.code(), mode).expect("an instruction with a routine");
        self.effects = Effects::default();
        execute(&mut self.cpu, &Insn { instruction, routine }, &mut self.machine, &mut self.effects)
    }

    /// Carries out an instruction that ends normally, and compares the state with that before, RIP advanced and
    /// `change` applied.
    #[track_caller]
    pub fn expect(&mut self, bytes: &[u8], change: impl FnOnce(&mut CpuState)) {
        let mut expected = self.cpu.clone();
        expected.rip += bytes.len() as u64;
        change(&mut expected);
        assert_eq!(self.run(bytes), Ok(Outcome::Done));
        assert_eq!(self.cpu, expected);
    }

    /// Carries out an instruction that faults, and holds that neither state nor memory have changed.
    #[track_caller]
    pub fn expect_fault(&mut self, bytes: &[u8], fault: Exception) {
        let expected = self.cpu.clone();
        let memory = self.machine.image();
        assert_eq!(self.run(bytes), Err(fault));
        assert_eq!(self.cpu, expected);
        assert!(self.machine.image() == memory, "memory has changed");
        assert!(self.effects.invalidations.is_empty());
    }

    /// Delivers an event.
    pub fn deliver(&mut self, event: impl Into<Event>) {
        deliver(&mut self.cpu, event.into(), &mut self.machine, &mut self.effects);
    }

    /// Writes a 16-byte gate: type 14 or 15 with P and DPL in `kind`.
    pub fn long_gate(&self, vector: u8, kind: u8, selector: u16, target: u64, ist: u8) {
        let at = layout::IDT + u64::from(vector) * 16;
        let low = (target & 0xffff)
            | u64::from(selector) << 16
            | u64::from(ist) << 32
            | u64::from(kind) << 40
            | (target >> 16 & 0xffff) << 48;
        self.machine.poke(at, 8, low);
        self.machine.poke(at + 8, 8, target >> 32);
    }

    /// Writes an 8-byte gate.
    pub fn gate(&self, vector: u8, kind: u8, selector: u16, target: u64) {
        let low = (target & 0xffff)
            | u64::from(selector) << 16
            | u64::from(kind) << 40
            | (target >> 16 & 0xffff) << 48;
        self.machine.poke(layout::IDT + u64::from(vector) * 8, 8, low);
    }

    /// The values at an address, 2, 4 or 8 bytes each.
    pub fn stack(&self, at: u64, size: usize, count: usize) -> Vec<u64> {
        (0..count as u64).map(|index| self.machine.peek(at + index * size as u64, size)).collect()
    }

    /// Writes such values.
    pub fn put(&self, at: u64, size: usize, values: &[u64]) {
        for (index, &value) in values.iter().enumerate() {
            self.machine.poke(at + (index * size) as u64, size, value);
        }
    }
}
