//! Guest code: any bytes, translated and run. The guest may do what it likes; the process must stay whole.
//!
//! The first byte chooses the mode (64-bit, 32-bit with and without paging, real), the second the initial
//! registers. What the monitor would do is cut short: an instruction that leaves the engine is stepped over, an
//! access to a device is answered with the fuzzer's bytes, and a watchdog kicks what loops. An engine that gives
//! up on a host fault it cannot name has run something other than what it meant to, so that is a finding.
#![no_main]

use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, LazyLock};
use std::thread;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use memory::GuestRam;
use translator::{Options, Translator};
use vcpu::{CpuState, Engine, Entry, Exit, Kick};
use x86::classify::Routine;
use x86::{Cr0, Cr4, Efer, Segment, SegmentRegister, Xcr0};

const RAM: u64 = 4 << 20;
const TABLES: u64 = 0x8000;
const CODE: u64 = 0x1_0000;
const STACK: u64 = 0x3_fff0;
const HLT: u8 = 0xf4;
/// How often the guest may come out.
const EXITS: usize = 64;
/// How long it may stay in.
const PATIENCE: Duration = Duration::from_millis(2);

fuzz_target!(|data: &[u8]| {
    let [mode, seed, code @ ..] = data else { return };
    let ram = GuestRam::allocate(RAM).expect("guest memory");
    // What falls off its end halts, and that ends the run.
    ram.write(CODE, &[HLT; 0x2000]).expect("inside RAM");
    ram.write(CODE, code).expect("inside RAM");
    let mut cpu = start(&ram, *mode, *seed);
    let options = Options { cache_bytes: 1 << 20, ..Options::default() };
    let mut engine = Translator::new(ram, options).expect("an engine");
    WATCHDOG.send(Some(engine.kicker())).expect("the watchdog lives");
    run(&mut engine, &mut cpu, code);
    WATCHDOG.send(None).expect("the watchdog lives");
});

fn run(engine: &mut Translator, cpu: &mut CpuState, code: &[u8]) {
    let mut entry = Entry::Resume;
    let first = cpu.rip;
    for count in 0..EXITS {
        let answer = code.get(count).copied().map_or(0, u64::from);
        entry = match engine.run(cpu, entry) {
            Exit::Sensitive(insn) if insn.routine == Routine::Hlt => return,
            Exit::Sensitive(insn) => {
                cpu.rip = insn.instruction.next_ip();
                Entry::Resume
            }
            Exit::Exception(_) => {
                cpu.rip = first + answer;
                Entry::Resume
            }
            Exit::Mmio(_) => Entry::Complete(answer.wrapping_mul(0x0101_0101_0101_0101)),
            Exit::Fatal(error) => {
                let said = error.to_string();
                assert!(!said.contains("host fault") && !said.contains("exit"), "{said}");
                return;
            }
            Exit::PortIo { .. } | Exit::Halt | Exit::Kicked | Exit::Debug { .. } | Exit::NotAdmitted => {
                return;
            }
        };
    }
}

/// A flat guest.
fn start(ram: &GuestRam, mode: u8, seed: u8) -> CpuState {
    let mut cpu = CpuState::reset();
    let data = Segment::PRESENT | Segment::CODE_OR_DATA | Segment::READABLE_OR_WRITABLE | Segment::ACCESSED;
    let code = data | Segment::EXECUTABLE;
    // Ring 3 under paging is as interesting as ring 0.
    let dpl = if mode & 4 == 0 { 0 } else { 3 << 5 };
    let (data, code, limit, base) = match mode & 3 {
        0 => (data | Segment::BIG | dpl, code | Segment::LONG | dpl, u32::MAX, 0),
        1 | 2 => (data | Segment::BIG | dpl, code | Segment::BIG | dpl, u32::MAX, 0),
        _ => (data, code, 0xffff, CODE),
    };
    for segment in &mut cpu.segments {
        *segment = Segment { base, limit, selector: 16 | u16::from(dpl >> 5), attributes: data };
    }
    cpu.segment_mut(SegmentRegister::Cs).attributes = code;
    cpu.cr0 = Cr0::NE | Cr0::MP | Cr0::ET;
    cpu.cr4 = Cr4::OSFXSR | Cr4::OSXMMEXCPT | Cr4::OSXSAVE;
    cpu.xcr0 = Xcr0::X87 | Xcr0::SSE | Xcr0::AVX;
    cpu.cr3 = TABLES;
    match mode & 3 {
        0 => {
            // The first gigabyte, user and supervisor, in one page.
            ram.write_u64(TABLES, (TABLES + 0x1000) | 7).expect("inside RAM");
            ram.write_u64(TABLES + 0x1000, 0x87).expect("inside RAM");
            cpu.cr0 |= Cr0::PE | Cr0::PG;
            cpu.cr4 |= Cr4::PAE;
            cpu.efer = Efer::LME | Efer::LMA;
        }
        1 => {
            // The first 4 MiB in one page.
            ram.write_u32(TABLES, 0x87).expect("inside RAM");
            cpu.cr0 |= Cr0::PE | Cr0::PG;
            cpu.cr4 |= Cr4::PSE;
        }
        2 => cpu.cr0 |= Cr0::PE,
        _ => {}
    }
    for (number, register) in cpu.gpr.iter_mut().enumerate() {
        // Small numbers, addresses in RAM (some at the end of a page), and nonsense.
        *register = match usize::from(seed).wrapping_add(number) % 4 {
            0 => number as u64,
            1 => 0x2_0000 + 0x1000 * number as u64,
            2 => 0x3_0ffa + 0x1000 * (number as u64 & 7),
            _ => u64::from(seed).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(number as u32),
        };
    }
    let real = mode & 3 == 3;
    cpu.gpr[4] = if real { 0xfff0 } else { STACK };
    cpu.rip = if real { 0 } else { CODE };
    cpu
}

/// Kicks an engine that has been running for too long, and goes on kicking until it is told of the next.
static WATCHDOG: LazyLock<Sender<Option<Arc<dyn Kick>>>> = LazyLock::new(|| {
    let (sender, receiver) = mpsc::channel::<Option<Arc<dyn Kick>>>();
    thread::spawn(move || {
        let mut running = None;
        loop {
            let told = match &running {
                Some(_) => receiver.recv_timeout(PATIENCE),
                None => receiver.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match (told, &running) {
                (Ok(next), _) => running = next,
                (Err(RecvTimeoutError::Timeout), Some(kick)) => kick.kick(),
                (Err(_), _) => return,
            }
        }
    });
    sender
});
