//! The program of a stub: one page of an ELF file, whose code empties the process and does as the list says.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, FromRawFd};

use crate::{HostError, PAGE_SIZE, entropy};

use super::LIST_BYTES;

/// One past the last address that the kernel gives to processes with four levels of page tables.
pub const END: u64 = (1 << 47) - PAGE_SIZE as u64;
/// Bytes of a stub's own pages.
pub const OWN_BYTES: u64 = (PAGE_SIZE + LIST_BYTES) as u64;
/// Where the code begins in the page.
const CODE: usize = 0x100;
/// Where in the page the name of the list's file is.
pub const LIST_NAME: u64 = 0x800;

// What runs in a stub, wherever it is. `rbx` is where its own pages are. The one breakpoint is where its tracer wants to
// have it back.
std::arch::global_asm!(
    ".pushsection .rodata",
    // Other parts of this crate may be compiled apart.
    ".globl popf_stub_code, popf_stub_empty, popf_stub_calls, popf_stub_call, popf_stub_end",
    ".hidden popf_stub_code, popf_stub_empty, popf_stub_calls, popf_stub_call, popf_stub_end",
    ".balign 16",
    "popf_stub_code:",
    // Gives itself a name, and waits for its tracer: prctl(2), pause(2).
    "mov eax, 157",
    "mov edi, 15",
    "lea rsi, [rip + 5f]",
    "syscall",
    "2: mov eax, 34",
    "syscall",
    "jmp 2b",
    ".balign 16",
    // munmap(2) of all before and behind.
    "popf_stub_empty:",
    "mov eax, 11",
    "xor edi, edi",
    "mov rsi, rbx",
    "syscall",
    "mov eax, 11",
    "lea rdi, [rbx + {own}]",
    "movabs rsi, {end}",
    "sub rsi, rdi",
    "syscall",
    "int3",
    ".balign 16",
    // r13 calls that stand at r12, seven words each: number and arguments. Stops behind the last, or one that fails.
    "popf_stub_calls:",
    "3: test r13, r13",
    "jz 4f",
    "mov rax, [r12]",
    "mov rdi, [r12 + 8]",
    "mov rsi, [r12 + 16]",
    "mov rdx, [r12 + 24]",
    "mov r10, [r12 + 32]",
    "mov r8, [r12 + 40]",
    "mov r9, [r12 + 48]",
    "syscall",
    "cmp rax, -4095",
    "jae 4f",
    "add r12, 56",
    "dec r13",
    "jmp 3b",
    "4: int3",
    // One call, whose registers are loaded.
    "popf_stub_call:",
    "syscall",
    "int3",
    "5: .asciz \"popf-stub\"",
    "popf_stub_end:",
    ".popsection",
    own = const OWN_BYTES,
    end = const END,
);

unsafe extern "C" {
    static popf_stub_code: u8;
    static popf_stub_empty: u8;
    static popf_stub_calls: u8;
    static popf_stub_call: u8;
    static popf_stub_end: u8;
}

/// An entry of a stub's code, by its offset from where its own pages are.
#[derive(Clone, Copy, Debug)]
pub enum Part {
    /// Waits.
    Wait,
    /// Leaves nothing else mapped.
    Empty,
    /// Makes the calls of the list.
    Calls,
    /// Makes one call.
    Call,
}

impl Part {
    /// Offset in the page.
    pub fn offset(self) -> u64 {
        let part = match self {
            Self::Wait => &raw const popf_stub_code,
            Self::Empty => &raw const popf_stub_empty,
            Self::Calls => &raw const popf_stub_calls,
            Self::Call => &raw const popf_stub_call,
        };
        (CODE + part as usize - &raw const popf_stub_code as usize) as u64
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

/// The program for this address, as a file that can only be read. Its list is in the file of this name.
pub fn program(base: u64, list: &str) -> Result<File, HostError> {
    // SAFETY: the symbols are those of the block above, in this order.
    let code = unsafe {
        let start = &raw const popf_stub_code;
        std::slice::from_raw_parts(start, (&raw const popf_stub_end as usize) - start as usize)
    };
    let mut page = vec![0; PAGE_SIZE];
    header(&mut page, base);
    page[CODE..CODE + code.len()].copy_from_slice(code);
    page[LIST_NAME as usize..][..list.len()].copy_from_slice(list.as_bytes());
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
