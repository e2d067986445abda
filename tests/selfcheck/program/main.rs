//! A program that checks the machine it runs on: exceptions and their exact frames, registers kept across signals
//! and switches, code that changes itself, page tables that change, strings, atomics, threads, 32-bit code.
//!
//! It is judged by a bare machine: what it expects is what the processor and Linux do natively, and the same
//! file must pass there (by Intel's manual, volumes 1 and 3, and Linux's x86-64 signal ABI). Each check runs in
//! a process of its own, says `ok NAME`, `skip NAME: why` or `FAIL NAME: what`, and the exit status is 0 if none
//! failed. With arguments, only the checks so named run; `generate BYTES` writes reproducible data instead.
//!
//! Not modelled: what needs privileges, and more than one processor.

#![no_std]
#![no_main]

#[path = "../../../control/images/guest/bare.rs"]
mod bare;
#[macro_use]
mod report;
#[macro_use]
mod probe;
mod atomics;
mod code;
mod compat;
mod faults;
mod float;
mod frames;
mod generator;
mod pages;
mod steps;
mod strings;
mod sys;
mod threads;
mod traps;
mod vectors;

use core::ffi::CStr;

use report::{Outcome, Skip, line};

#[panic_handler]
fn panic(info: &core::panic::PanicInfo) -> ! {
    line(format_args!("panic: {info}"));
    sys::exit(101)
}

/// One check: its name, and what does it.
type Check = (&'static str, fn() -> Outcome);

#[rustfmt::skip]
const CHECKS: &[Check] = &[
    ("page-faults",            faults::page_faults),
    ("page-faults-straddling", faults::straddling),
    ("page-faults-stack",      faults::stack),
    ("page-faults-partial",    faults::partial),
    ("page-faults-atomic",     faults::read_modify_write),
    ("page-faults-fetch",      faults::fetch),
    ("page-faults-vector",     faults::vector),
    ("protection-faults",      traps::protection),
    ("divide-errors",          traps::divide),
    ("invalid-opcodes",        traps::invalid_opcode),
    ("float-exceptions",       traps::float),
    ("breakpoints",            traps::breakpoints),
    ("bus-errors",             traps::bus),
    ("alignment-check",        traps::alignment),
    ("fault-frames",           frames::every_register),
    ("fault-frames-flags",     frames::dying_flags),
    ("fixed-up-operands",      frames::fixed_up),
    ("syscall-registers",      frames::syscall_registers),
    ("single-step",            steps::single_step),
    ("single-step-strings",    steps::strings),
    ("vectors-signals",        vectors::across_signals),
    ("vectors-switches",       vectors::across_switches),
    ("vectors-preemption",     vectors::across_preemption),
    ("vectors-frame",          vectors::in_the_frame),
    ("float-control",          float::control_words),
    ("float-stack",            float::stack),
    ("code-rewritten",         code::rewritten),
    ("code-next-instruction",  code::next_instruction),
    ("code-straddling",        code::straddling),
    ("code-two-mappings",      code::two_mappings),
    ("code-read-into",         code::read_into),
    ("code-beside-data",       code::beside_data),
    ("code-remapped",          code::remapped),
    ("code-after-fork",        code::after_fork),
    ("pages-protection",       pages::protection),
    ("pages-unmapped",         pages::unmapped),
    ("pages-moved",            pages::moved),
    ("pages-replaced",         pages::replaced),
    ("pages-checksums",        pages::checksums),
    ("pages-aliases",          pages::aliases),
    ("pages-four-levels",      pages::four_levels),
    ("pages-five-levels",      pages::five_levels),
    ("fork-copy-on-write",     pages::copy_on_write),
    ("strings-move",           strings::moves),
    ("strings-store",          strings::stores),
    ("strings-compare",        strings::compares),
    ("atomics-straddling",     atomics::straddling),
    ("atomics-16-bytes",       atomics::sixteen_bytes),
    ("bits-beyond-operand",    atomics::bit_strings),
    ("threads",                threads::counters),
    ("threads-futex",          threads::futex),
    ("compat-code",            compat::instructions),
    ("compat-system-calls",    compat::system_calls),
    ("compat-faults",          compat::faults),
    ("compat-16-bit",          compat::sixteen_bits),
];

/// How many seconds a check may take before it counts as hanging.
const PATIENCE: u32 = 60;

extern "C" fn main(stack: *const usize) -> ! {
    // SAFETY: the kernel puts the count and that many strings there.
    let arguments = unsafe { core::slice::from_raw_parts(stack.add(1).cast::<*const i8>(), *stack) };
    // SAFETY: as above; they live as long as the process.
    let mut arguments = arguments.iter().map(|at| unsafe { CStr::from_ptr(*at) }.to_bytes());
    let _ = arguments.next();
    if arguments.clone().next() == Some(b"generate") {
        let bytes = arguments.nth(1).and_then(number).unwrap_or(0);
        sys::exit(if generate(bytes) { 0 } else { 1 });
    }
    let (mut passed, mut skipped, mut failed) = (0, 0, 0);
    for (name, check) in CHECKS {
        let mut named = arguments.clone();
        if named.len() > 0 && !named.any(|argument| argument == name.as_bytes()) {
            continue;
        }
        match alone(name, *check) {
            0 => passed += 1,
            2 => skipped += 1,
            _ => failed += 1,
        }
    }
    line(format_args!("{passed} passed, {skipped} skipped, {failed} failed"));
    sys::exit((failed > 0 || passed + skipped == 0) as i32)
}

/// Runs a check in a process of its own, so that one which goes astray takes no other with it.
fn alone(name: &str, check: fn() -> Outcome) -> i32 {
    let child = sys::fork();
    if child == 0 {
        sys::alarm(PATIENCE);
        let status = match check() {
            Ok(()) => {
                line(format_args!("ok {name}"));
                0
            }
            Err(failure) if failure.skip == Skip::Yes => {
                line(format_args!("skip {name}: {failure}"));
                2
            }
            Err(failure) => {
                line(format_args!("FAIL {name}: {failure}"));
                1
            }
        };
        sys::exit(status);
    }
    match sys::wait(child) {
        Some(status) if status & 0x7f == 0 => {
            let status = status >> 8;
            if !(0..=2).contains(&status) {
                line(format_args!("FAIL {name}: ended with status {status}"));
            }
            status
        }
        Some(status) => {
            line(format_args!("FAIL {name}: killed by signal {}", status & 0x7f));
            1
        }
        None => {
            line(format_args!("FAIL {name}: cannot be waited for (fork: {child})"));
            1
        }
    }
}

fn generate(bytes: u64) -> bool {
    let mut generator = generator::Generator::default();
    let mut left = bytes;
    let mut block = [0; 4096];
    while left > 0 {
        generator.fill(&mut block);
        let count = left.min(block.len() as u64);
        let mut rest = &block[..count as usize];
        while !rest.is_empty() {
            let written = sys::write(1, rest);
            if written <= 0 {
                return false;
            }
            rest = &rest[written as usize..];
        }
        left -= count;
    }
    true
}

/// A decimal number.
fn number(text: &[u8]) -> Option<u64> {
    text.iter().try_fold(0u64, |value, digit| {
        let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
        value.checked_mul(10)?.checked_add(digit)
    })
}
