//! Those of the nanobenchmarks that a program can do by itself, on the host: the same code of ring 3, and lines as the
//! guest writes them. SYSCALL is getppid, so that it holds what Linux does for one.

#![no_std]
#![no_main]

#[path = "../../../control/images/guest/bare.rs"]
mod bare;
#[allow(dead_code, reason = "faults are for the guest")]
mod ring3;
mod say;

use bare::{padded, syscall};

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    exit(101)
}

extern "C" fn main() -> ! {
    batches("loop", 100_000, ring3::r3_loop, 1);
    batches("call-ret", 20_000, ring3::r3_call, 10);
    batches("syscall", 10_000, ring3::r3_syscall, 1);
    say::done();
    exit(0)
}

fn batches(name: &str, iterations: u64, routine: unsafe extern "C" fn(u64) -> u64, times: u64) {
    // SAFETY: the routines keep the C calling convention and touch no memory.
    let cycles: [u64; say::BATCHES] = core::array::from_fn(|_| unsafe { routine(iterations) / times });
    say::report(name, iterations, &cycles);
}

/// To standard output.
fn put(byte: u8) {
    let bytes = [byte];
    // SAFETY: write(2), of a byte that is there.
    unsafe { syscall(1, padded([1, bytes.as_ptr() as usize, 1])) };
}

fn exit(status: usize) -> ! {
    loop {
        // SAFETY: exit_group(2).
        unsafe { syscall(231, padded([status])) };
    }
}
