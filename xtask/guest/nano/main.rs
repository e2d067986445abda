//! Nanobenchmarks: what single events of a kernel's and its programs' life cost, in cycles of the time-stamp counter, on
//! a machine without a kernel. It starts by the PVH note, under a monitor with COM1 and the debug-exit port.
//!
//! What was measured it writes as `say` has it, and holds it against what the machine must have done meanwhile: faults
//! taken, values read back. The first that is not right ends the run with its number.
//!
//! Ring 0 has the first 4 GiB in large global pages, as kernels have their part of memory; ring 3 has pages of 4 KiB.

#![no_std]
#![no_main]

#[path = "../../../control/images/guest/bare.rs"]
#[allow(dead_code, reason = "system calls are for programs with a kernel")]
mod bare;
#[path = "../../../tests/hostile/program/boot.rs"]
#[allow(dead_code, reason = "the interrupt table is another here")]
mod boot;
mod handlers;
#[path = "../../../tests/hostile/program/machine.rs"]
#[allow(dead_code, reason = "there are no devices on a bus here")]
mod machine;
mod ring0;
mod ring3;
mod say;
mod tables;
mod timer;

use core::arch::asm;

use handlers::Count;
use machine::out;
use say::{BATCHES, report};
use tables::{FAULT_PAGES, FAULTS};

/// One that takes a number of iterations and says how many cycles they took.
struct Bench {
    name: &'static str,
    iterations: u64,
    run: fn(u64) -> u64,
    /// Whether what happened during the batches is what had to.
    held: fn(iterations: u64) -> bool,
}

#[rustfmt::skip]
const BENCHES: &[Bench] = &[
    Bench { name: "loop",      iterations: 100_000, run: |n| user(ring3::r3_loop as *const (), n, 0),    held: |_| true },
    Bench { name: "call-ret",  iterations: 20_000,  run: |n| user(ring3::r3_call as *const (), n, 0) / 10, held: |_| true },
    Bench { name: "syscall",   iterations: 10_000,  run: |n| user(ring3::r3_syscall as *const (), n, 0), held: |n| counted(Count::Syscall, n) },
    Bench { name: "int",       iterations: 2_000,   run: |n| user(ring3::r3_interrupt as *const (), n, 0), held: |n| counted(Count::Software, n) },
    Bench { name: "divide",    iterations: 2_000,   run: |n| user(ring3::r3_divide as *const (), n, 0),  held: |n| counted(Count::Divide, n) },
    Bench { name: "fault",     iterations: FAULT_PAGES, run: faults,                                     held: |n| counted(Count::PageFault, n) },
    Bench { name: "in",        iterations: 2_000,   run: |n| kernel(ring0::r0_in, n),                    held: |_| machine_reads(3) },
    Bench { name: "out",       iterations: 2_000,   run: |n| kernel(ring0::r0_out, n),                   held: |_| machine_reads(2) },
    Bench { name: "cr8-write", iterations: 2_000,   run: |n| kernel(ring0::r0_cr8, n),                   held: |_| ring0::cr8() == 2 },
    Bench { name: "cr3-write", iterations: 2_000,   run: |n| kernel(ring0::r0_cr3, n),                   held: |_| tables::cr3_forgets() },
    Bench { name: "pte-write", iterations: 10_000,  run: |n| tables::write_entries(ring0::r0_pte, n),    held: |_| true },
    Bench { name: "pte-invlpg-touch", iterations: 2_000, run: |n| tables::write_entries(ring0::r0_remap, n), held: tables::touched },
    Bench { name: "self-ipi",  iterations: 1_000,   run: |n| kernel(ring0::r0_ipi, n),                   held: |n| counted(Count::Ipi, n) },
];

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    end(101)
}

extern "C" fn main() -> ! {
    tables::set_up();
    for (number, bench) in BENCHES.iter().enumerate() {
        handlers::reset();
        let mut batches = [0; BATCHES];
        for batch in &mut batches {
            *batch = (bench.run)(bench.iterations);
        }
        report(bench.name, bench.iterations, &batches);
        if !(bench.held)(bench.iterations) {
            end(number as u8 + 1);
        }
    }
    handlers::reset();
    let sleeps = timer::wake_ups();
    report("hlt-wake", 1, &sleeps);
    if !handlers::is(Count::Timer, sleeps.len() as u64) {
        end(50);
    }
    say::done();
    end(0)
}

/// To COM1.
fn put(byte: u8) {
    const COM1: u16 = 0x3f8;
    const LINE_STATUS: u16 = COM1 + 5;
    /// The transmitter takes a byte.
    const EMPTY: u8 = 0x20;
    let mut status = 0_u8;
    while status & EMPTY == 0 {
        // SAFETY: the port is the machine's, as memory is.
        unsafe { asm!("in al, dx", in("dx") LINE_STATUS, out("al") status, options(nomem, nostack)) };
    }
    out(COM1, 1, byte.into());
}

/// Ends the monitor by the debug-exit port.
fn end(status: u8) -> ! {
    loop {
        out(0xf4, 1, status.into());
    }
}

/// In ring 3, with interrupts off.
fn user(routine: *const (), iterations: u64, second: u64) -> u64 {
    handlers::call_user(tables::user_address(routine), iterations, second)
}

/// In ring 0, with interrupts on.
fn kernel(routine: unsafe extern "C" fn(u64) -> u64, iterations: u64) -> u64 {
    // SAFETY: the routines in `ring0` keep the C calling convention, and touch nothing but the machine's own.
    unsafe { routine(iterations) }
}

/// Each page of a range is touched once; before, none is there.
fn faults(pages: u64) -> u64 {
    tables::empty_fault_pages();
    user(ring3::r3_touch as *const (), pages, FAULTS)
}

fn counted(what: Count, iterations: u64) -> bool {
    handlers::is(what, iterations * BATCHES as u64)
}

/// Whether the two low bits of port 61, which hold what was written, are these.
fn machine_reads(bits: u64) -> bool {
    ring0::port_61() & 3 == bits
}
