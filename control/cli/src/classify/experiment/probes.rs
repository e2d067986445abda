//! The instructions that are tried, in machine code, with what has to be there before.

use super::tell::{self, Seen, Told};

/// One trial.
pub struct Probe {
    /// Code before it.
    pub setup: &'static [u8],
    /// Where in `setup` there are four bytes for the distance from behind them to the code after `code`.
    pub next: Option<usize>,
    /// The instruction; code behind it belongs to the trial too.
    pub code: &'static [u8],
    /// Code of which width.
    pub width: Width,
    /// rax and rcx before it; every other register is 0, but for rdi, which points to 256 bytes of 0.
    pub input: (u64, u64),
    /// What it means that the instruction did not trap.
    pub tell: fn(&Seen) -> Told,
}

/// Of code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// 64-bit mode.
    Bits64,
    /// Compatibility mode with 32-bit code.
    Bits32,
}

/// Linux's selectors (asm/segment.h): the kernel's code, the user's data, the user's code.
const KERNEL_CS: u64 = 0x10;
const USER_DS: u64 = 0x2b;
const USER_CS: u64 = 0x33;

const fn probe(code: &'static [u8], input: (u64, u64), tell: fn(&Seen) -> Told) -> Probe {
    Probe { setup: &[], next: None, code, width: Width::Bits64, input, tell }
}

/// With code before it.
const fn after(setup: &'static [u8], probe: Probe) -> Probe {
    Probe { setup, ..probe }
}

/// With code before it that needs the address behind it.
const fn leading_on(setup: &'static [u8], next: usize, probe: Probe) -> Probe {
    Probe { setup, next: Some(next), ..probe }
}

/// In 32-bit code.
const fn narrow(probe: Probe) -> Probe {
    Probe { width: Width::Bits32, ..probe }
}

/// `lea rax, [rip+next]; mov [rdi], eax; mov word [rdi+4], USER_CS`
const FAR_POINTER: &[u8] = &[0x48, 0x8d, 0x05, 0, 0, 0, 0, 0x89, 0x07, 0x66, 0xc7, 0x47, 0x04, 0x33, 0x00];
/// `push USER_CS; lea rax, [rip+next]; push rax`
const FAR_RETURN: &[u8] = &[0x6a, 0x33, 0x48, 0x8d, 0x05, 0, 0, 0, 0, 0x50];
/// `mov rcx, rsp; push USER_DS; push rcx; push IOPL 3, IF clear; push USER_CS; lea rax, [rip+next]; push rax`
const INTERRUPT_RETURN: &[u8] = &[
    0x48, 0x89, 0xe1, 0x6a, 0x2b, 0x51, 0x68, 0x02, 0x30, 0x00, 0x00, 0x6a, 0x33, 0x48, 0x8d, 0x05, 0, 0, 0,
    0, 0x50,
];
/// `pushfq; and qword [rsp], ~IF; or qword [rsp], IOPL 3`
const OTHER_FLAGS: &[u8] =
    &[0x9c, 0x48, 0x81, 0x24, 0x24, 0xff, 0xfd, 0xff, 0xff, 0x48, 0x81, 0x0c, 0x24, 0x00, 0x30, 0x00, 0x00];
/// `push 0`
const NULL: &[u8] = &[0x6a, 0x00];

/// All trials: the seventeen that x86 is known for, what has come since, and for comparison some that trap.
#[rustfmt::skip]
pub const PROBES: &[Probe] = &[
    probe(&[0x0f, 0x01, 0x07],                   (0, 0),         tell::table),              // sgdt [rdi]
    probe(&[0x0f, 0x01, 0x0f],                   (0, 0),         tell::table),              // sidt [rdi]
    probe(&[0x0f, 0x00, 0xc0],                   (0, 0),         tell::selector),           // sldt eax
    probe(&[0x0f, 0x01, 0xe0],                   (0, 0),         tell::cr0),                // smsw eax
    probe(&[0x0f, 0x00, 0xc8],                   (0, 0),         tell::selector),           // str eax
    probe(&[0x9c, 0x58],                         (0, 0),         tell::flags),              // pushfq; pop rax
    after(OTHER_FLAGS,
    probe(&[0x9d],                               (0, 0),         tell::flags_kept)),        // popfq
    leading_on(INTERRUPT_RETURN, 16,
    probe(&[0x48, 0xcf],                         (0, 0),         tell::flags_kept)),        // iretq
    probe(&[0x0f, 0x02, 0xc1],                   (0, USER_CS),   tell::rights),             // lar eax, ecx
    probe(&[0x0f, 0x02, 0xc1],                   (0, KERNEL_CS), tell::rights),             // lar eax, ecx
    probe(&[0x0f, 0x03, 0xc1],                   (0, USER_CS),   tell::limit),              // lsl eax, ecx
    probe(&[0x0f, 0x00, 0xe1],                   (0, USER_DS),   tell::verified),           // verr cx
    probe(&[0x0f, 0x00, 0xe9],                   (0, USER_DS),   tell::verified),           // verw cx
    probe(&[0x8c, 0xc8],                         (0, 0),         tell::ring),               // mov eax, cs
    probe(&[0x8e, 0xd8],                         (USER_DS, 0),   tell::segment_loaded),     // mov ds, eax
    probe(&[0x8e, 0xd8],                         (KERNEL_CS, 0), tell::segment_loaded),     // mov ds, eax
    narrow(
    probe(&[0x0e, 0x58],                         (0, 0),         tell::ring)),              // push cs; pop eax
    probe(&[0x0f, 0xa0, 0x58],                   (0, 0),         tell::selector),           // push fs; pop rax
    after(NULL,
    probe(&[0x0f, 0xa9],                         (0, 0),         tell::segment_loaded)),    // pop gs
    probe(&[0x0f, 0xb4, 0x07],                   (0, 0),         tell::segment_loaded),     // lfs eax, [rdi]
    leading_on(FAR_POINTER, 3,
    probe(&[0xff, 0x1f],                         (0, 0),         tell::transferred)),       // call far [rdi]
    leading_on(FAR_POINTER, 3,
    probe(&[0xff, 0x2f],                         (0, 0),         tell::transferred)),       // jmp far [rdi]
    leading_on(FAR_RETURN, 5,
    probe(&[0x48, 0xcb],                         (0, 0),         tell::transferred)),       // retfq
    probe(&[0xcd, 0x80],                         (20, 0),        tell::transferred),        // int 80h
    probe(&[0xcd, 0x20],                         (0, 0),         tell::transferred),        // int 20h
    probe(&[0xcc],                               (0, 0),         tell::transferred),        // int3
    probe(&[0xf1],                               (0, 0),         tell::transferred),        // int1
    probe(&[0x0f, 0x05],                         (39, 0),        tell::transferred),        // syscall
    probe(&[0x0f, 0x34],                         (20, 0),        tell::transferred),        // sysenter
    probe(&[0x0f, 0xa2],                         (0, 0),         tell::vendor),             // cpuid
    probe(&[0x0f, 0x31],                         (0, 0),         tell::counter),            // rdtsc
    probe(&[0x0f, 0x01, 0xf9],                   (0, 0),         tell::counter_and_cpu),    // rdtscp
    probe(&[0xf3, 0x0f, 0xc7, 0xf8],             (0, 0),         tell::cpu),                // rdpid rax
    probe(&[0x0f, 0x01, 0xd0],                   (0, 0),         tell::xcr0),               // xgetbv
    probe(&[0x0f, 0x01, 0xee],                   (0, 0),         tell::keys),               // rdpkru
    probe(&[0xf3, 0x48, 0x0f, 0xae, 0xc0],       (0, 0),         tell::base),               // rdfsbase rax
    probe(&[0xf3, 0x48, 0x0f, 0xae, 0xc8],       (0, 0),         tell::base),               // rdgsbase rax
    probe(&[0xf3, 0x48, 0x0f, 0xae, 0xd8],       (0x1234, 0),    tell::base_moved),         // wrgsbase rax
    probe(&[0x0f, 0x01, 0xfd],                   (0, 0),         tell::counter),            // rdpru
    probe(&[0x0f, 0x33],                         (0, 0),         tell::counter),            // rdpmc
    probe(&[0xfa],                               (0, 0),         tell::done),               // cli
    probe(&[0xf4],                               (0, 0),         tell::done),               // hlt
    probe(&[0xe4, 0x60],                         (0, 0),         tell::done),               // in al, 60h
    probe(&[0x0f, 0x01, 0x17],                   (0, 0),         tell::done),               // lgdt [rdi]
    probe(&[0x0f, 0x20, 0xc0],                   (0, 0),         tell::done),               // mov rax, cr0
    probe(&[0x0f, 0x32],                         (0, 0x10),      tell::done),               // rdmsr
    probe(&[0x0f, 0x01, 0xf8],                   (0, 0),         tell::done),               // swapgs
];
