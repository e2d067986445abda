//! The program of a stub: one page of an ELF file, whose code empties the process, sees to signals, and then waits for
//! commands and carries them out, here and in the handler of every signal.
//!
//! Code of the guest may jump anywhere into this, and may have written anything into the [mail] before. So
//! nothing here counts on a register that it has not loaded itself, all memory is addressed relative to the instruction
//! pointer, and what could do harm needs the secret that comes with each command ([`super::filter`]).

use std::fs::File;
use std::io::Write;
use std::mem::offset_of;
use std::os::fd::{AsRawFd, FromRawFd};

use super::mail::{self, MAIL_BYTES, Orders, SETUP, Setup, UCONTEXT, WORDS, Words};
use crate::{HostError, PAGE_SIZE, entropy};

/// One past the last address that the kernel gives to processes with four levels of page tables.
pub const END: u64 = (1 << 47) - PAGE_SIZE as u64;
/// Bytes of a stub's own pages: this one, and the mail.
pub const OWN_BYTES: u64 = (PAGE_SIZE + MAIL_BYTES) as u64;
/// Where the code begins in the page.
const CODE: usize = 0x100;

std::arch::global_asm!(
    ".pushsection .rodata",
    // Other parts of this crate may be compiled apart.
    ".globl popf_stub_code, popf_stub_handler, popf_stub_told, popf_stub_woken, popf_stub_end",
    ".hidden popf_stub_code, popf_stub_handler, popf_stub_told, popf_stub_woken, popf_stub_end",
    ".balign 16",
    "popf_stub_code:",
    // A name: prctl(2), PR_SET_NAME.
    "mov eax, 157",
    "mov edi, 15",
    "lea rsi, [rip + 20f]",
    "syscall",
    // munmap(2) of all before this page and behind it, the stack among it.
    "lea rbx, [rip + popf_stub_code - {code}]",
    "mov eax, 11",
    "xor edi, edi",
    "mov rsi, rbx",
    "syscall",
    "mov eax, 11",
    "lea rdi, [rbx + {page}]",
    "movabs rsi, {end}",
    "sub rsi, rdi",
    "syscall",
    // The mail, which is descriptor 2: mmap(2), readable, writable, shared and where it is wanted; close(2).
    "mov eax, 9",
    "lea rdi, [rbx + {page}]",
    "mov esi, {mail_bytes}",
    "mov edx, 3",
    "mov r10d, 0x11",
    "mov r8d, 2",
    "xor r9d, r9d",
    "syscall",
    // Its first page is to be read only: mprotect(2).
    "mov eax, 10",
    "lea rdi, [rbx + {page}]",
    "mov esi, {page}",
    "mov edx, 1",
    "syscall",
    "mov eax, 3",
    "mov edi, 2",
    "syscall",
    // sigaltstack(2), and rt_sigaction(2) for all signals that there are.
    "lea rbx, [rip + popf_stub_code + {mail} + {setup}]",
    "mov eax, 131",
    "lea rdi, [rbx + {stack}]",
    "xor esi, esi",
    "syscall",
    "mov r12d, 64",
    "2: mov eax, 13",
    "mov edi, r12d",
    "lea rsi, [rbx + {action}]",
    "xor edx, edx",
    "mov r10d, 8",
    "syscall",
    "dec r12d",
    "jnz 2b",
    // seccomp(2), SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_SPEC_ALLOW; without the last for kernels before 4.17.
    "mov r12d, 4",
    "3: mov eax, 317",
    "mov edi, 1",
    "mov esi, r12d",
    "lea rdx, [rbx + {program}]",
    "syscall",
    "test eax, eax",
    "jz popf_stub_stand",
    "sub r12d, 4",
    "jz 3b",
    "ud2",
    // A signal has stopped the guest. All signals are blocked meanwhile, and the registers are where the kernel has put
    // them, but for these bases.
    ".balign 16",
    "popf_stub_handler:",
    "lea rbx, [rip + popf_stub_code + {mail}]",
    "rdfsbase rax",
    "mov [rbx + {told_bases}], rax",
    "rdgsbase rax",
    "mov [rbx + {told_bases} + 8], rax",
    "mov [rbx + {told_frame}], rdx",
    "rdtsc",
    "shl rdx, 32",
    "or rax, rdx",
    "mov [rbx + {ended}], rax",
    // Stands from now on, until the command that it waits for: says so by a write(2) that only this place can make, and then to
    // whoever watches the word.
    "popf_stub_stand:",
    "lea rbx, [rip + popf_stub_code + {mail}]",
    "mov eax, [rbx + {command}]",
    "inc eax",
    "mov [rbx + {awaited}], eax",
    "mov eax, 1",
    "mov edi, 1",
    "lea rsi, [rbx + {awaited}]",
    "mov edx, 4",
    "xor r8d, r8d",
    "syscall",
    "popf_stub_told:",
    "lea rbx, [rip + popf_stub_code + {mail}]",
    "mov dword ptr [rbx + {stands}], 1",
    "rdtsc",
    "mov ecx, eax",
    "mov esi, [rbx + {awaited}]",
    "4: cmp [rbx + {command}], esi",
    "je 7f",
    "pause",
    "rdtsc",
    "sub eax, ecx",
    "cmp eax, [rbx + {watches}]",
    "jb 4b",
    // Sleeps in read(2) until it is written to.
    "mov eax, 1",
    "xchg [rbx + {sleeps}], eax",
    "6: mov eax, [rbx + {awaited}]",
    "cmp [rbx + {command}], eax",
    "je 7f",
    "xor eax, eax",
    "xor edi, edi",
    "lea rsi, [rbx + {byte}]",
    "mov edx, 1",
    "xor r8d, r8d",
    "syscall",
    "popf_stub_woken:",
    "lea rbx, [rip + popf_stub_code + {mail}]",
    "test rax, rax",
    "jnz 6b",
    // Nobody is there any more who could.
    "ud2",
    // A command. The secret is nowhere but in registers from here on.
    "7: mov dword ptr [rbx + {sleeps}], 0",
    "mov r14, [rbx + {secret}]",
    "mov r15, [rbx + {secret} + 8]",
    "mov qword ptr [rbx + {secret}], 0",
    "mov qword ptr [rbx + {secret} + 8], 0",
    // So many system calls, seven words each: number and arguments. Up to one that fails.
    "lea r12, [rbx + {list}]",
    "mov r13d, [rbx + {calls}]",
    "xor eax, eax",
    "8: test r13, r13",
    "jz 31f",
    "mov rax, [r12]",
    "mov rdi, [r12 + 8]",
    "mov rsi, [r12 + 16]",
    "mov rdx, [r12 + 24]",
    "mov r10, [r12 + 32]",
    "mov r8, [r12 + 40]",
    "mov r9, [r12 + 48]",
    "or r8, r14",
    "cmp eax, 9",
    "jne 9f",
    "or r10, r15",
    "jmp 30f",
    "9: or r9, r15",
    "30: syscall",
    "cmp rax, -4095",
    "jae 32f",
    "add r12, 56",
    "dec r13",
    "jmp 8b",
    "31: cmp dword ptr [rbx + {resumes}], 0",
    "jne 13f",
    "32: mov [rbx + {left}], r13",
    "mov [rbx + {result}], rax",
    "jmp popf_stub_stand",
    // Back to the guest. Selectors of data are next to never anything else than they were.
    "13: mov ecx, ds",
    "cmp cx, [rbx + {data}]",
    "je 14f",
    "mov ds, [rbx + {data}]",
    "14: mov ecx, es",
    "cmp cx, [rbx + {data} + 2]",
    "je 15f",
    "mov es, [rbx + {data} + 2]",
    "15: xor eax, eax",
    "mov ecx, fs",
    "test ecx, ecx",
    "jz 16f",
    "mov fs, eax",
    "16: mov ecx, gs",
    "test ecx, ecx",
    "jz 17f",
    "mov gs, eax",
    "17: mov rax, [rbx + {bases}]",
    "wrfsbase rax",
    "mov rax, [rbx + {bases} + 8]",
    "wrgsbase rax",
    "rdtsc",
    "shl rdx, 32",
    "or rax, rdx",
    "mov [rbx + {begun}], rax",
    // rt_sigreturn(2).
    "lea rsp, [rbx + {ucontext}]",
    "mov r8, r14",
    "mov r9, r15",
    "mov eax, 15",
    "syscall",
    "ud2",
    "20: .asciz \"popf-stub\"",
    "popf_stub_end:",
    ".popsection",
    code = const CODE,
    page = const PAGE_SIZE,
    end = const END,
    mail = const PAGE_SIZE - CODE,
    mail_bytes = const MAIL_BYTES,
    setup = const SETUP,
    stack = const offset_of!(Setup, stack),
    action = const offset_of!(Setup, action),
    program = const offset_of!(Setup, program),
    told_bases = const WORDS + offset_of!(Words, bases),
    told_frame = const WORDS + offset_of!(Words, frame),
    begun = const WORDS + offset_of!(Words, begun),
    ended = const WORDS + offset_of!(Words, ended),
    stands = const WORDS + offset_of!(Words, stands),
    sleeps = const WORDS + offset_of!(Words, sleeps),
    awaited = const WORDS + offset_of!(Words, awaited),
    byte = const WORDS + offset_of!(Words, byte),
    left = const WORDS + offset_of!(Words, left),
    result = const WORDS + offset_of!(Words, result),
    secret = const WORDS + offset_of!(Words, secret),
    command = const offset_of!(Orders, command),
    watches = const offset_of!(Orders, watches),
    calls = const offset_of!(Orders, calls),
    resumes = const offset_of!(Orders, resumes),
    bases = const offset_of!(Orders, bases),
    data = const offset_of!(Orders, data),
    list = const mail::LIST,
    ucontext = const UCONTEXT,
);

unsafe extern "C" {
    static popf_stub_code: u8;
    static popf_stub_handler: u8;
    static popf_stub_told: u8;
    static popf_stub_woken: u8;
    static popf_stub_end: u8;
}

/// Where a stub at this address has the number of the command that it waits for.
pub fn awaited(base: u64) -> u64 {
    base + (PAGE_SIZE + WORDS + offset_of!(Words, awaited)) as u64
}

/// A place in a stub's code.
#[derive(Clone, Copy, Debug)]
pub enum Place {
    /// The handler of signals.
    Handler,
    /// Behind the write that says that it stands.
    Told,
    /// Behind the read that sleeps.
    Woken,
}

impl Place {
    /// Its address in a stub whose pages begin at this one.
    pub fn address(self, base: u64) -> u64 {
        let place = match self {
            Self::Handler => &raw const popf_stub_handler,
            Self::Told => &raw const popf_stub_told,
            Self::Woken => &raw const popf_stub_woken,
        };
        base + (CODE + place as usize - &raw const popf_stub_code as usize) as u64
    }
}

/// An address for a stub's own pages, far from where systems put their programs', and drawn by lot: no guest's program has
/// anything there.
pub fn place() -> Result<u64, HostError> {
    let mut bytes = [0; 8];
    entropy::fill(&mut bytes)?;
    // From 1 << 44 on, 1 << 45 bytes.
    let page = u64::from_le_bytes(bytes) & ((1 << 33) - 1);
    Ok((1 << 44) + (page << 12))
}

/// The program for this address, as a file that can only be read.
pub fn program(base: u64) -> Result<File, HostError> {
    // SAFETY: the symbols are those of the block above, in this order.
    let code = unsafe {
        let start = &raw const popf_stub_code;
        std::slice::from_raw_parts(start, (&raw const popf_stub_end as usize) - start as usize)
    };
    let mut page = vec![0; PAGE_SIZE];
    header(&mut page, base);
    page[CODE..CODE + code.len()].copy_from_slice(code);
    let file = |source| HostError::Call { call: "memfd_create", source };
    let fd = executable_memfd()?;
    // SAFETY: the descriptor is new and ours alone.
    let mut writable = unsafe { File::from_raw_fd(fd) };
    writable.write_all(&page).map_err(file)?;
    // What is open for writing is not executed.
    File::open(format!("/proc/self/fd/{}", writable.as_raw_fd())).map_err(file)
}

fn executable_memfd() -> Result<i32, HostError> {
    /// linux/memfd.h (6.3).
    const MFD_EXEC: libc::c_uint = 0x10;
    let create = |flags: libc::c_uint| {
        // SAFETY: the name is a constant that ends with NUL.
        let fd = unsafe { libc::memfd_create(c"stub-program".as_ptr(), libc::MFD_CLOEXEC | flags) };
        if fd >= 0 { Ok(fd) } else { Err(HostError::last("memfd_create")) }
    };
    match create(MFD_EXEC) {
        Err(error) if error.os_error() == Some(libc::EINVAL) => create(0),
        other => other,
    }
}

/// ELF header and two program headers (System V ABI, chapters 4 and 5): the page itself, and a stack that is not executed.
fn header(page: &mut [u8], base: u64) {
    const HEADER: u64 = 64;
    const PROGRAM_HEADER: u16 = 56;
    const PT_LOAD: u32 = 1;
    const PT_GNU_STACK: u32 = 0x6474_e551;
    const READ_EXECUTE: u32 = 5;
    const READ_WRITE: u32 = 6;
    let mut at = 0;
    let mut put = |bytes: &[u8]| {
        page[at..at + bytes.len()].copy_from_slice(bytes);
        at += bytes.len();
    };
    // 64 bits, little-endian, version 1; an executable for x86-64.
    put(&[0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    put(&2_u16.to_le_bytes());
    put(&62_u16.to_le_bytes());
    put(&1_u32.to_le_bytes());
    put(&(base + CODE as u64).to_le_bytes());
    put(&HEADER.to_le_bytes());
    put(&0_u64.to_le_bytes());
    put(&0_u32.to_le_bytes());
    for half in [HEADER as u16, PROGRAM_HEADER, 2, 0, 0, 0] {
        put(&half.to_le_bytes());
    }
    let size = PAGE_SIZE as u64;
    for (kind, flags, words) in [
        (PT_LOAD, READ_EXECUTE, [0, base, base, size, size, size]),
        (PT_GNU_STACK, READ_WRITE, [0, 0, 0, 0, 0, 16]),
    ] {
        put(&kind.to_le_bytes());
        put(&flags.to_le_bytes());
        words.iter().for_each(|word: &u64| put(&word.to_le_bytes()));
    }
}
