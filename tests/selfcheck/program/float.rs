//! The x87's and SSE's control words and the x87's stack, across signals and switches.

use core::arch::asm;

use crate::probe::{self, Context};
use crate::report::Outcome;
use crate::sys::{self, SIGUSR1};

const DEFAULT_MXCSR: u32 = 0x1f80;
const DEFAULT_CONTROL: u16 = 0x37f;

fn words() -> (u32, u16) {
    let (mut mxcsr, mut control) = (0u32, 0u16);
    // SAFETY: both are stored to locals of their size.
    unsafe { asm!("stmxcsr [{}]", "fnstcw [{}]", in(reg) &raw mut mxcsr, in(reg) &raw mut control) };
    (mxcsr, control)
}

fn set_words(mxcsr: u32, control: u16) {
    // SAFETY: both are valid; nothing here computes with floating point.
    unsafe { asm!("ldmxcsr [{}]", "fldcw [{}]", in(reg) &raw const mxcsr, in(reg) &raw const control) };
}

pub fn control_words() -> Outcome {
    probe::start();
    probe::take(SIGUSR1);
    same!(words().0, DEFAULT_MXCSR, "mxcsr at the start");
    same!(words().1, DEFAULT_CONTROL, "control word at the start");
    fn in_handler(_: &mut Context) {
        if words() != (DEFAULT_MXCSR, DEFAULT_CONTROL) {
            crate::report::line(format_args!("a handler's control words: {:x?}", words()));
            sys::exit(1);
        }
        set_words(0x3f80, 0xf7f);
    }
    // Each rounding, flushing, and precision of its own.
    for (mxcsr, control) in [(0x3f80, 0x27f), (0x5f80, 0x57f), (0x7f80, 0x87f), (0x9fc0, 0xf7f)] {
        probe::reset();
        probe::hook(in_handler);
        set_words(mxcsr, control);
        sys::raise(SIGUSR1);
        sys::yield_now();
        let child = sys::fork();
        let found = words();
        if child == 0 {
            sys::exit((found != (mxcsr, control)) as i32);
        }
        let status = sys::wait(child);
        let again = words();
        set_words(DEFAULT_MXCSR, DEFAULT_CONTROL);
        same!(found.0, mxcsr, "mxcsr after a signal");
        same!(found.1, control, "control word after a signal");
        same!(again.0, mxcsr, "mxcsr after a switch");
        same!(again.1, control, "control word after a switch");
        ensure!(status == Some(0), "a child inherits other words: {status:?}");
    }
    rounding()
}

/// What the words say is what the arithmetic does.
fn rounding() -> Outcome {
    for (mode, expected) in
        [(0u32, 0x3fd5_5555_5555_5555u64), (1, 0x3fd5_5555_5555_5555), (2, 0x3fd5_5555_5555_5556)]
    {
        let mxcsr = DEFAULT_MXCSR | mode << 13;
        let control = DEFAULT_CONTROL & !0x300 | 0x200 | (mode as u16) << 10;
        let sse: u64;
        let mut x87 = 0u64;
        let (one, three) = (1.0f64, 3.0f64);
        // SAFETY: computes 1/3 on locals, and leaves the x87's stack as it was.
        unsafe {
            asm!(
                "ldmxcsr [{m}]", "movsd xmm0, [{a}]", "divsd xmm0, [{b}]", "movq {r}, xmm0",
                "fldcw [{c}]", "fld qword ptr [{a}]", "fdiv qword ptr [{b}]", "fstp qword ptr [{x}]",
                m = in(reg) &raw const mxcsr, c = in(reg) &raw const control, a = in(reg) &raw const one,
                b = in(reg) &raw const three, x = in(reg) &raw mut x87, r = lateout(reg) sse, out("xmm0") _,
            );
        }
        set_words(DEFAULT_MXCSR, DEFAULT_CONTROL);
        same!(sse, expected, "1/3 by SSE, rounding mode {mode}");
        same!(x87, expected, "1/3 by x87, rounding mode {mode}");
    }
    Ok(())
}

/// Eight values on the x87's stack, through a signal whose handler uses it, and a switch of processes.
pub fn stack() -> Outcome {
    probe::start();
    probe::take(SIGUSR1);
    fn in_handler(_: &mut Context) {
        // SAFETY: the handler starts with an empty stack.
        unsafe { asm!("fldpi", "fldl2e", "fmulp st(1), st", "fstp st(0)", "fninit") };
    }
    let given: [i64; 8] = [1, -2, 3, i64::MAX, 5, i64::MIN, 7, 0x1234_5678_9abc_def0];
    for _ in 0..100 {
        probe::reset();
        probe::hook(in_handler);
        let mut found = [0i64; 8];
        // SAFETY: loads all eight registers, sends this process a signal and yields, and stores all eight.
        unsafe {
            asm!(
                "fild qword ptr [{g}]", "fild qword ptr [{g} + 8]", "fild qword ptr [{g} + 16]",
                "fild qword ptr [{g} + 24]", "fild qword ptr [{g} + 32]", "fild qword ptr [{g} + 40]",
                "fild qword ptr [{g} + 48]", "fild qword ptr [{g} + 56]",
                "mov eax, 62", "syscall", "mov eax, 24", "syscall",
                "fistp qword ptr [{f} + 56]", "fistp qword ptr [{f} + 48]", "fistp qword ptr [{f} + 40]",
                "fistp qword ptr [{f} + 32]", "fistp qword ptr [{f} + 24]", "fistp qword ptr [{f} + 16]",
                "fistp qword ptr [{f} + 8]", "fistp qword ptr [{f}]",
                g = in(reg) given.as_ptr(), f = in(reg) found.as_mut_ptr(),
                in("rdi") sys::process_id(), in("rsi") SIGUSR1, out("rax") _, out("rcx") _, out("r11") _,
            );
        }
        same!(probe::count(), 1, "signals");
        ensure!(found == given, "the stack after a signal: {found:x?}");
    }
    Ok(())
}
