//! Faults caught, answered, and passed on. The ones that end a process do so in a child.
#![allow(unsafe_code)] // Faults have to be made.

use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};

use host::{AltStack, FaultContext, FaultSignal, Mapping, Protection, install_fault_handler};

static LAST_VECTOR: AtomicU64 = AtomicU64::new(0);
static LAST_ADDRESS: AtomicU64 = AtomicU64::new(0);

/// r14 holds this in code whose faults are ours; r15 says where to go on.
const MARK: u64 = 0x706f_7066_7465_7374;

fn skip(fault: &mut FaultContext) -> bool {
    if fault.gpr(14) != MARK {
        return false;
    }
    LAST_VECTOR.store(fault.vector(), Ordering::Relaxed);
    LAST_ADDRESS.store(fault.address() as u64, Ordering::Relaxed);
    let resume = fault.gpr(15);
    fault.set_rip(resume);
    fault.set_gpr(0, fault.signal() as u64);
    true
}

/// Runs one instruction that faults; gives what the handler put into rax.
macro_rules! fault_in {
    ($instruction:literal, $($operands:tt)*) => {{
        let result: u64;
        // SAFETY: the instruction faults, and the handler goes on behind it.
        unsafe {
            std::arch::asm!(
                "lea r15, [rip + 2f]",
                $instruction,
                "2:",
                inout("rax") 99u64 => result,
                in("r14") MARK,
                out("r15") _,
                out("rdx") _,
                $($operands)*
            );
        }
        result
    }};
}

#[test]
fn faults_of_marked_code_are_answered() {
    let _stack = AltStack::install().unwrap();
    install_fault_handler(skip).unwrap();
    install_fault_handler(skip).unwrap();
    let guard = Mapping::anonymous(4096, Protection::None).unwrap();

    assert_eq!(fault_in!("mov rax, [rcx]", in("rcx") guard.address() + 5), FaultSignal::Segv as u64);
    assert_eq!(LAST_VECTOR.load(Ordering::Relaxed), 14);
    assert_eq!(LAST_ADDRESS.load(Ordering::Relaxed), guard.address() as u64 + 5);
    assert_eq!(fault_in!("ud2", in("rcx") 0), FaultSignal::Ill as u64);
    assert_eq!(fault_in!("div rcx", in("rcx") 0), FaultSignal::Fpe as u64);
    assert_eq!(LAST_VECTOR.load(Ordering::Relaxed), 0);
    assert_eq!(fault_in!("int3", in("rcx") 0), FaultSignal::Trap as u64);
    // A non-canonical address is a general protection fault.
    assert_eq!(fault_in!("mov rax, [rcx]", in("rcx") 1u64 << 63), FaultSignal::Segv as u64);
    assert_eq!(LAST_VECTOR.load(Ordering::Relaxed), 13);
}

#[test]
fn handlers_run_on_the_alternate_stack_even_without_any_other() {
    let _stack = AltStack::install().unwrap();
    install_fault_handler(skip).unwrap();
    // With rsp = 8 a handler on the ordinary stack would be the end of the process.
    let rsp: u64;
    // SAFETY: rsp is put back by the code after the fault; the handler needs no stack of ours.
    unsafe {
        std::arch::asm!(
            "mov rcx, rsp",
            "lea r15, [rip + 2f]",
            "mov esp, 8",
            "ud2",
            "2:",
            "mov {seen}, rsp",
            "mov rsp, rcx",
            seen = out(reg) rsp,
            in("r14") MARK,
            out("rcx") _,
            out("r15") _,
            out("rax") _,
        );
    }
    assert_eq!(rsp, 8);
}

/// Runs this test binary's `name` (an ignored test) in a process of its own.
fn child(name: &str) -> std::process::Output {
    let binary = std::env::current_exe().unwrap();
    Command::new(binary).args(["--exact", name, "--ignored", "--nocapture"]).output().unwrap()
}

#[test]
#[ignore = "dies: run by others"]
fn dies_of_segv() {
    install_fault_handler(skip).unwrap();
    // SAFETY: none; that is the point.
    unsafe { std::ptr::without_provenance::<u8>(16).read_volatile() };
}

#[test]
#[ignore = "dies: run by others"]
fn dies_of_int3() {
    install_fault_handler(skip).unwrap();
    // SAFETY: kills the process.
    unsafe { std::arch::asm!("int3") };
}

#[test]
#[ignore = "dies: run by others"]
fn dies_of_stack_overflow() {
    install_fault_handler(skip).unwrap();
    #[allow(unconditional_recursion)]
    fn deeper(n: &mut [u64; 64]) -> u64 {
        let mut next = *n;
        next[0] += 1;
        std::hint::black_box(deeper(&mut next)) + 1
    }
    deeper(&mut [0; 64]);
}

#[test]
fn unclaimed_faults_kill_as_they_always_did() {
    assert_eq!(child("dies_of_segv").status.signal(), Some(11));
    assert_eq!(child("dies_of_int3").status.signal(), Some(5));
    let overflow = child("dies_of_stack_overflow");
    assert_eq!(overflow.status.signal(), Some(6));
    let message = String::from_utf8_lossy(&overflow.stderr).into_owned();
    assert!(message.contains("overflowed its stack"), "Rust's own handler was not reached: {message}");
}
