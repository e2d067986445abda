//! Code that is written, rewritten, moved and shared: what runs is what lies there.

use crate::faults::{peek, poke};
use crate::report::Outcome;
use crate::sys::{self, EXECUTE, PAGE, READ, WRITE};

/// mov eax, value; ret
const fn returning(value: u32) -> u64 {
    0xb8 | (value as u64) << 8 | 0xc3 << 40
}

/// Calls code that takes nothing, returns eax and keeps the ABI.
fn call(address: u64) -> u32 {
    let result: u32;
    // SAFETY: checks pass code that they have written.
    unsafe { core::arch::asm!("call {}", in(reg) address, out("eax") result, clobber_abi("C")) };
    result
}

/// Makes what was written through another mapping the processor's: by the manual that takes a serializing
/// instruction.
fn serialize() {
    core::arch::x86_64::__cpuid(0);
}

pub fn rewritten() -> Outcome {
    let page = sys::map(1, READ | WRITE | EXECUTE);
    for round in 0..3000 {
        poke(page + 128, returning(round));
        same!(call(page + 128), round, "code rewritten in round {round}");
        // Unchanged code runs on unchanged.
        same!(call(page + 128), round, "code called again in round {round}");
    }
    // Just the immediate, a byte at a time.
    for byte in 0..4 {
        for value in [1u8, 0x80, 0xff] {
            poke(page, returning(0));
            same!(call(page), 0, "code before a byte of it is written");
            // SAFETY: within the page.
            unsafe { ((page + 1 + byte) as *mut u8).write(value) };
            same!(call(page), u32::from(value) << (8 * byte), "byte {byte} of the code");
        }
    }
    Ok(())
}

/// A store to the instruction right behind it: the processor sees it, without a jump in between.
pub fn next_instruction() -> Outcome {
    let page = sys::map(1, READ | WRITE | EXECUTE);
    // xor eax, eax; mov dword ptr [rip + 1], edi; mov eax, 0; ret
    const CODE: [u8; 14] = [0x31, 0xc0, 0x89, 0x3d, 1, 0, 0, 0, 0xb8, 0, 0, 0, 0, 0xc3];
    for (at, byte) in CODE.into_iter().enumerate() {
        // SAFETY: within the page.
        unsafe { ((page + at as u64) as *mut u8).write(byte) };
    }
    for value in [5u32, 6, 6, 0, 0xffff_ffff, 7] {
        let result: u32;
        // SAFETY: the code above, which keeps everything but eax and itself.
        unsafe { core::arch::asm!("call {}", in(reg) page, in("edi") value, out("eax") result) };
        same!(result, value, "the instruction behind the store");
    }
    // A loop that counts in its own immediate: add dword ptr [rip - 6 + 7 + 1], 1 is 7 bytes; then mov eax, N.
    // 2: add dword ptr [rip + 1], 1; mov eax, 0; dec ecx; jnz 2b; ret
    const LOOP: [u8; 17] = [0x83, 0x05, 1, 0, 0, 0, 1, 0xb8, 0, 0, 0, 0, 0xff, 0xc9, 0x75, 0xf0, 0xc3];
    for (at, byte) in LOOP.into_iter().enumerate() {
        // SAFETY: within the page.
        unsafe { ((page + 256 + at as u64) as *mut u8).write(byte) };
    }
    let result: u32;
    // SAFETY: the code above.
    unsafe { core::arch::asm!("call {}", in(reg) page + 256, inout("ecx") 1000 => _, out("eax") result) };
    same!(result, 1000, "a loop that counts in its own code");
    Ok(())
}

/// An instruction that begins on one page and ends on another, each half written and remapped.
pub fn straddling() -> Outcome {
    let base = sys::map(2, READ | WRITE | EXECUTE);
    for before in 1..6 {
        let at = base + PAGE - before;
        for round in 0..50u32 {
            let value = round.wrapping_mul(0x0123_4567) | 1;
            poke(at, returning(value));
            same!(call(at), value, "{before} bytes before the edge, round {round}");
        }
        // Only the second page's part.
        poke(at, returning(0));
        same!(call(at), 0, "before the second page changes");
        let other = 0xaabb_ccdd;
        let new = returning(other).to_le_bytes();
        for (number, byte) in new.iter().enumerate().skip(before as usize).take(6) {
            // SAFETY: within the second page.
            unsafe { ((at + number as u64) as *mut u8).write(*byte) };
        }
        let kept = 8 * (before as u32 - 1);
        let expected = (u64::from(other) >> kept << kept) as u32;
        same!(call(at), expected, "second page rewritten, {before} bytes before the edge");
    }
    Ok(())
}

pub fn two_mappings() -> Outcome {
    let file = sys::memory_file(2);
    let writable = sys::map_file(file, 0, 2, READ | WRITE);
    let executable = sys::map_file(file, 0, 2, READ | EXECUTE);
    let another = sys::map_file(file, 0, 2, READ | EXECUTE);
    for round in 0..1000 {
        poke(writable + 64, returning(round));
        serialize();
        same!(call(executable + 64), round, "code written through another mapping, round {round}");
        same!(call(another + 64), round, "the same through a third, round {round}");
    }
    // The same page at its other place, with rights changed in between.
    sys::protect(writable, 2, READ);
    sys::protect(executable, 2, READ | WRITE);
    poke(executable + 64, returning(77));
    sys::protect(executable, 2, READ | EXECUTE);
    serialize();
    same!(call(another + 64), 77, "code written where it had run");
    same!(call(executable + 64), 77, "code written where it runs");
    Ok(())
}

/// The kernel writes to the page that holds code.
pub fn read_into() -> Outcome {
    let page = sys::map(1, READ | WRITE | EXECUTE);
    let (from, to) = sys::pipe();
    for round in 0..300 {
        let code = returning(round).to_le_bytes();
        same!(sys::write(to, &code), 8, "bytes written");
        same!(sys::read_to(from, page + 512, 8), 8, "bytes read");
        serialize();
        same!(call(page + 512), round, "code read from a pipe, round {round}");
    }
    Ok(())
}

/// Code and the data it works on, in one page: slow, but right.
pub fn beside_data() -> Outcome {
    let page = sys::map(1, READ | WRITE | EXECUTE);
    // 2: add dword ptr [rdi], 1; dec ecx; jnz 2b; ret
    poke(page, 0xc3f9_75c9_ff01_0783);
    // SAFETY: the word in the middle of the page is no code.
    unsafe { core::arch::asm!("call {}", in(reg) page, in("rdi") page + 2048, inout("ecx") 100_000 => _) };
    same!(peek(page + 2048), 100_000, "the counter beside the code");
    Ok(())
}

/// Other pages at the same address, and the same page with rights taken and given.
pub fn remapped() -> Outcome {
    let page = sys::map(1, READ | WRITE | EXECUTE);
    for round in 0..300 {
        sys::map_at(page, 1, READ | WRITE | EXECUTE);
        same!(peek(page), 0, "a fresh page");
        poke(page, returning(round));
        same!(call(page), round, "code in a fresh page, round {round}");
    }
    for round in 0..300 {
        sys::protect(page, 1, READ | WRITE);
        poke(page, returning(round));
        sys::protect(page, 1, READ | EXECUTE);
        same!(call(page), round, "code of a page that was writable, round {round}");
    }
    // Two files' pages take turns.
    let files = [sys::memory_file(1), sys::memory_file(1)];
    for (number, file) in files.into_iter().enumerate() {
        let map = sys::map_file(file, 0, 1, READ | WRITE);
        poke(map, returning(1000 + number as u32));
        sys::unmap(map, 1);
    }
    for round in 0..200 {
        let number = round % 2;
        sys::map_file_at(page, files[number], 0, 1, READ | EXECUTE);
        same!(call(page), 1000 + number as u32, "code of file {number}, round {round}");
    }
    Ok(())
}

/// A child that rewrites its copy leaves the parent's alone, and the other way round.
pub fn after_fork() -> Outcome {
    let page = sys::map(1, READ | WRITE | EXECUTE);
    poke(page, returning(1));
    same!(call(page), 1, "code before the fork");
    for round in 0..20 {
        let child = sys::fork();
        if child == 0 {
            let mut good = call(page) == 1 + round;
            for value in 0..50 {
                poke(page, returning(100 + value));
                good &= call(page) == 100 + value;
                sys::yield_now();
                good &= call(page) == 100 + value;
            }
            sys::exit(!good as i32);
        }
        for _ in 0..20 {
            same!(call(page), 1 + round, "the parent's code");
            sys::yield_now();
        }
        poke(page, returning(2 + round));
        same!(call(page), 2 + round, "the parent's code after it wrote");
        let status = sys::wait(child);
        ensure!(status == Some(0), "the child's status: {status:?}");
        same!(call(page), 2 + round, "the parent's code after the child's end");
    }
    Ok(())
}
