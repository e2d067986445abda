//! What a stub may ask of the kernel: nothing that the guest's code could ask as well.
//!
//! The guest's system calls look like any others, and it may jump to the stub's own as well. Those that change what is mapped, or
//! bring the guest back, pass only with a secret in the upper halves of arguments that the kernel takes for 32 bits wide or does not
//! look at. It is drawn for each stub, the owner sends it with a command, and where the guest's code runs it is neither
//! in memory nor in a register. To say that it stands and to sleep a stub needs none: the address of the instruction is looked
//! at instead, and whoever jumps there stands, or sleeps, indeed. Anything else is a signal (seccomp(2), SECCOMP_RET_TRAP).

use std::mem::offset_of;

use libc::{c_int, c_long, seccomp_data, sock_filter};

use super::image::{Place, awaited};
use crate::{HostError, entropy};

/// What may be asked for with the secret.
const CALLS: [c_long; 5] =
    [libc::SYS_mmap, libc::SYS_munmap, libc::SYS_openat, libc::SYS_close, libc::SYS_rt_sigreturn];

/// `AUDIT_ARCH_X86_64` of linux/audit.h.
const X86_64: u32 = 0xc000_003e;

/// Two words to set in arguments, of which the lower halves are 0.
pub fn secret() -> Result<[u64; 2], HostError> {
    let mut bytes = [0; 8];
    entropy::fill(&mut bytes)?;
    let both = u64::from_le_bytes(bytes);
    Ok([both & !0xffff_ffff, both << 32])
}

/// Where the halves of an argument are.
fn lower(n: usize) -> usize {
    offset_of!(seccomp_data, args) + size_of::<u64>() * n
}

fn upper(n: usize) -> usize {
    lower(n) + size_of::<u32>()
}

/// The filter for the stub at this address with this secret: its first word in r8, its second in r10 for mmap(2) and in r9 for
/// all others.
pub fn filter(base: u64, secret: [u64; 2]) -> Vec<sock_filter> {
    let [first, second] = secret.map(|word| (word >> 32) as u32);
    let nr = offset_of!(seccomp_data, nr);
    let ip = offset_of!(seccomp_data, instruction_pointer);
    let mut code = Code::default();
    code.unless(offset_of!(seccomp_data, arch), X86_64, Label::Trap);
    code.unless(upper(4), first, Label::Bare);
    code.when(nr, libc::SYS_mmap as u32, Label::Mmap);
    code.unless(upper(5), second, Label::Trap);
    for call in CALLS.iter().filter(|call| **call != libc::SYS_mmap) {
        code.when(nr, *call as u32, Label::Allow);
    }
    code.jump(Label::Trap);
    code.place(Label::Mmap);
    code.when(upper(3), second, Label::Allow);
    code.jump(Label::Trap);
    code.place(Label::Bare);
    code.unless(ip + 4, (base >> 32) as u32, Label::Trap);
    code.when(ip, Place::Woken.address(base) as u32, Label::Sleep);
    code.unless(ip, Place::Told.address(base) as u32, Label::Trap);
    // What it waits for, and from where.
    let awaited = awaited(base);
    let word = [(lower(1), awaited as u32), (upper(1), (awaited >> 32) as u32)];
    code.only(libc::SYS_write, libc::STDOUT_FILENO, 4, &word);
    code.place(Label::Sleep);
    code.only(libc::SYS_read, libc::STDIN_FILENO, 1, &[]);
    code.finish()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Label {
    Mmap,
    Bare,
    Sleep,
    Trap,
    Allow,
}

/// A program for the kernel's filter machine (bpf(4), linux/filter.h), whose jumps go forwards only.
#[derive(Default)]
struct Code {
    code: Vec<sock_filter>,
    /// By jump: which of its two ways goes where.
    jumps: Vec<(usize, bool, Label)>,
    places: Vec<(Label, usize)>,
}

impl Code {
    fn push(&mut self, code: u32, k: u32) {
        self.code.push(sock_filter { code: code as u16, jt: 0, jf: 0, k });
    }

    fn compare(&mut self, offset: usize, value: u32, equal: bool, label: Label) {
        self.push(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset as u32);
        self.jumps.push((self.code.len(), equal, label));
        self.push(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, value);
    }

    fn when(&mut self, offset: usize, value: u32, label: Label) {
        self.compare(offset, value, true, label);
    }

    fn unless(&mut self, offset: usize, value: u32, label: Label) {
        self.compare(offset, value, false, label);
    }

    /// Allows this call with this descriptor, so many bytes, and what else is to be in the arguments; nothing else passes.
    fn only(&mut self, call: c_long, descriptor: c_int, bytes: u32, more: &[(usize, u32)]) {
        let fixed = [
            (offset_of!(seccomp_data, nr), call as u32),
            (lower(0), descriptor as u32),
            (lower(2), bytes),
            (upper(2), 0),
        ];
        fixed.iter().chain(more).for_each(|(offset, value)| self.unless(*offset, *value, Label::Trap));
        self.jump(Label::Allow);
    }

    fn jump(&mut self, label: Label) {
        // Both ways of a comparison.
        let at = self.code.len();
        self.jumps.extend([(at, true, label), (at, false, label)]);
        self.push(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0);
    }

    fn place(&mut self, label: Label) {
        self.places.push((label, self.code.len()));
    }

    fn finish(mut self) -> Vec<sock_filter> {
        for (label, answer) in
            [(Label::Trap, libc::SECCOMP_RET_TRAP), (Label::Allow, libc::SECCOMP_RET_ALLOW)]
        {
            self.place(label);
            self.push(libc::BPF_RET | libc::BPF_K, answer);
        }
        for (at, equal, label) in self.jumps {
            let to = self.places.iter().find(|(placed, _)| *placed == label).map_or(at + 1, |(_, to)| *to);
            let way = if equal { &mut self.code[at].jt } else { &mut self.code[at].jf };
            *way = (to - at - 1) as u8;
        }
        self.code
    }
}
