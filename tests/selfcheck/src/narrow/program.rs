//! The program that does what it is told: an ELF file for Linux on 32-bit x86, assembled here.
//!
//! All of it runs in a signal handler. It reads commands, and a command to run something changes the registers in the signal's
//! frame and returns: so the kernel loads the whole state at once, flags and segments too. Whatever is run ends in a signal,
//! whose frame is written out, and the handler reads on. System calls and structures are those of Linux' i386 ABI
//! (arch/x86/include/uapi/asm: sigcontext.h, ucontext.h, signal.h).

use iced_x86::code_asm::*;

use super::script::Command;

/// Where it is loaded.
const ORIGIN: u32 = 0x1000_0000;
const HEADERS: u32 = 52 + 32;
/// The signals' handler, and what makes it that.
const HANDLER: u32 = ORIGIN + HEADERS;
const START: u32 = ORIGIN + 0x800;
/// What a system call has returned.
const RESULT: u32 = ORIGIN + 0x1000;
/// A command, and behind it the segment registers of the first frame: those at its beginning, then CS and SS.
const COMMAND: u32 = ORIGIN + 0x1100;
const SEGMENTS: u32 = ORIGIN + 0x1200;
const SELECTORS: u32 = SEGMENTS + 16;
const ALTERNATE_STACK: u32 = ORIGIN + 0x2000;
const STACK_BYTES: u32 = 0x6000;
const END: u32 = ALTERNATE_STACK + STACK_BYTES;

/// Offsets in `struct ucontext`, whose registers are a `struct sigcontext`: GS, FS, ES, DS, EDI, ESI, EBP, ESP, EBX, EDX, ECX,
/// EAX, the trap's number, error code, EIP, CS, EFLAGS, ESP again, SS, the address of the x87 state, the mask, CR2.
const REGISTERS: i32 = 20;
const GENERAL: i32 = REGISTERS + 16;
const EIP: i32 = REGISTERS + 56;
const EFLAGS: i32 = REGISTERS + 64;
const STATE: i32 = REGISTERS + 76;
/// Bytes of `struct sigcontext`.
pub const CONTEXT_BYTES: usize = 88;
/// Signal, error number, code and address of `siginfo_t`.
pub const INFO_BYTES: usize = 16;
/// FSAVE's image with two words more, and FXSAVE's.
pub const STATE_BYTES: usize = 112 + 512;

/// Where segment registers are among the registers, and from [`SEGMENTS`] on: GS, FS, ES, DS, CS, SS.
const SEGMENT_PLACES: [(i32, i32); 6] = [(0, 0), (4, 4), (8, 8), (12, 12), (60, 16), (72, 20)];

const SIGNALS: [u32; 7] = [4, 5, 7, 8, 10, 11, 14];

/// The program.
pub fn program() -> Vec<u8> {
    let assembled = |code: Result<Vec<u8>, IcedError>| {
        code.unwrap_or_else(|error| panic!("the program cannot be assembled: {error}"))
    };
    let mut code = assembled(handler());
    assert!(HANDLER + code.len() as u32 <= START, "{} bytes of code", code.len());
    code.resize((START - HANDLER) as usize, 0);
    code.extend(assembled(start()));
    let size = HEADERS + code.len() as u32;
    assert!(ORIGIN + size <= RESULT, "{size} bytes of code");
    let mut file = b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    let words = |file: &mut Vec<u8>, words: &[u32]| {
        words.iter().for_each(|word| file.extend(word.to_le_bytes()));
    };
    // An executable for the 80386: entry, where the program headers are, no sections, no flags; then sizes and counts.
    words(&mut file, &[0x0003_0002, 1, START, 52, 0, 0, 0x0020_0034, 0x0028_0001, 0]);
    // One segment to be read, written and executed.
    words(&mut file, &[1, 0, ORIGIN, ORIGIN, size, END - ORIGIN, 7, 0x1000]);
    file.extend(code);
    file
}

/// The alternate stack, and the handler for each signal: sigaltstack, rt_sigaction. The first signal has it begin.
fn start() -> Result<Vec<u8>, IcedError> {
    const SIGINFO_ONSTACK_NODEFER: i32 = 4 | 0x0800_0000 | 0x4000_0000;
    let mut a = CodeAssembler::new(32)?;
    a.push(STACK_BYTES as i32)?;
    a.push(0)?;
    a.push(ALTERNATE_STACK as i32)?;
    a.mov(ebx, esp)?;
    a.xor(ecx, ecx)?;
    a.mov(eax, 186)?;
    a.int(0x80)?;
    for signal in SIGNALS {
        a.push(0)?;
        a.push(0)?;
        a.push(0)?;
        a.push(SIGINFO_ONSTACK_NODEFER)?;
        a.push(HANDLER as i32)?;
        a.mov(ecx, esp)?;
        a.mov(ebx, signal)?;
        a.xor(edx, edx)?;
        a.mov(esi, 8)?;
        a.mov(eax, 174)?;
        a.int(0x80)?;
    }
    a.ud2()?;
    a.assemble(u64::from(START))
}

fn handler() -> Result<Vec<u8>, IcedError> {
    let mut a = CodeAssembler::new(32)?;
    let mut read = a.create_label();
    let mut write = a.create_label();
    // Of the frame: a return address, the signal, and the addresses of its siginfo_t and its ucontext.
    let (mut told, mut next) = (a.create_label(), a.create_label());
    a.mov(ebp, dword_ptr(esp + 12))?;
    // The first time nobody has asked.
    a.cmp(dword_ptr(SELECTORS), 0)?;
    a.jne(told)?;
    for (register, kept) in SEGMENT_PLACES {
        a.mov(eax, dword_ptr(ebp + REGISTERS + register))?;
        a.mov(dword_ptr(SEGMENTS as i32 + kept), eax)?;
    }
    a.jmp(next)?;
    a.set_label(&mut told)?;
    a.mov(ecx, dword_ptr(esp + 8))?;
    a.mov(edx, INFO_BYTES as i32)?;
    a.call(write)?;
    a.lea(ecx, ptr(ebp + REGISTERS))?;
    a.mov(edx, CONTEXT_BYTES as i32)?;
    a.call(write)?;
    a.mov(ecx, dword_ptr(ebp + STATE))?;
    a.mov(edx, STATE_BYTES as i32)?;
    a.call(write)?;

    a.set_label(&mut next)?;
    a.mov(ecx, COMMAND)?;
    a.mov(edx, Command::BYTES as i32)?;
    a.call(read)?;
    let operand = |n: u32| dword_ptr(COMMAND + 4 + 4 * n);
    for kind in [Command::CALL, Command::READ, Command::WRITE, Command::RUN, Command::RESUME] {
        let mut other = a.create_label();
        a.cmp(dword_ptr(COMMAND), kind as i32)?;
        a.jne(other)?;
        match kind {
            Command::CALL => {
                a.push(ebp)?;
                for (n, register) in (0..).zip([eax, ebx, ecx, edx, esi, edi, ebp]) {
                    a.mov(register, operand(n))?;
                }
                a.int(0x80)?;
                a.pop(ebp)?;
                a.mov(dword_ptr(RESULT), eax)?;
                a.mov(ecx, RESULT)?;
                a.mov(edx, 4)?;
                a.call(write)?;
                a.jmp(next)?;
            }
            Command::READ | Command::WRITE => {
                a.mov(ecx, operand(0))?;
                a.mov(edx, operand(1))?;
                a.call(if kind == Command::READ { read } else { write })?;
                a.jmp(next)?;
            }
            _ => {
                if kind == Command::RUN {
                    for (n, at) in (0..8).map(|n| (n, GENERAL + 4 * n as i32)).chain([(8, EIP), (9, EFLAGS)])
                    {
                        a.mov(eax, operand(n))?;
                        a.mov(dword_ptr(ebp + at), eax)?;
                    }
                    for (register, kept) in SEGMENT_PLACES {
                        a.mov(eax, dword_ptr(SEGMENTS as i32 + kept))?;
                        a.mov(dword_ptr(ebp + REGISTERS + register), eax)?;
                    }
                }
                // As if the handler had returned: rt_sigreturn, with the frame's first word popped.
                a.lea(esp, ptr(esp + 4))?;
                a.mov(eax, 173)?;
                a.int(0x80)?;
            }
        }
        a.set_label(&mut other)?;
    }
    // No command that it knows.
    a.mov(ebx, 1)?;
    a.mov(eax, 252)?;
    a.int(0x80)?;

    transfer(&mut a, &mut read, 3, 0)?;
    transfer(&mut a, &mut write, 4, 1)?;
    a.assemble(u64::from(HANDLER))
}

/// Reads or writes all of edx bytes at ecx, or ends the program: with status 0 at the end of its input.
fn transfer(a: &mut CodeAssembler, label: &mut CodeLabel, number: i32, file: i32) -> Result<(), IcedError> {
    let mut done = a.create_label();
    a.set_label(label)?;
    a.test(edx, edx)?;
    a.je(done)?;
    a.mov(ebx, file)?;
    a.mov(eax, number)?;
    a.int(0x80)?;
    a.add(ecx, eax)?;
    a.sub(edx, eax)?;
    a.test(eax, eax)?;
    a.jg(*label)?;
    a.mov(ebx, eax)?;
    a.mov(eax, 252)?;
    a.int(0x80)?;
    a.set_label(&mut done)?;
    a.ret()
}
