//! A stub, and the thread that traces it.

use std::io;

use libc::{c_int, c_long, c_uint, pid_t, user_regs_struct};

use super::image::{LIST_NAME, OWN_BYTES, Part};
use super::{Idle, LIST_BYTES, Registers};
use crate::{HostError, Memfd, PAGE_SIZE};

/// Words of one call in the list.
const CALL_WORDS: usize = 7;
/// Calls that the list holds; behind them is room for a name.
const MOST_CALLS: usize = LIST_BYTES / (8 * CALL_WORDS) - 2;
/// `NT_X86_XSTATE` of linux/elf.h.
const NT_X86_XSTATE: usize = 0x202;
/// `ARCH_SET_CPUID` of asm/prctl.h.
const ARCH_SET_CPUID: u64 = 0x1012;
/// Room for the XSAVE area of any processor, in which a kernel may keep more than guests are offered.
const VECTOR_BYTES: usize = 1 << 14;

/// Breakpoints of the processor.
pub const BREAKPOINTS: usize = 4;

/// Why a stub stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Behind an instruction that enters the kernel. rax is as it was before.
    SystemCall,
    /// A signal by an instruction.
    Fault {
        /// Its number.
        signal: i32,
        /// `si_code`.
        code: i32,
        /// `si_addr`.
        address: u64,
    },
    /// [`Interrupter::interrupt`].
    Interrupted,
}

/// A change of what is mapped in a stub.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// A part of the file is mapped, in place of what was there.
    Map {
        /// Where.
        at: u64,
        /// Bytes.
        len: u64,
        /// Where in the file.
        offset: u64,
        /// Whether it may be written.
        write: bool,
        /// Whether it may be executed.
        execute: bool,
    },
    /// Nothing is.
    Unmap {
        /// Where.
        at: u64,
        /// Bytes.
        len: u64,
    },
}

/// Stops a stub, from any thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interrupter(u32);

impl Interrupter {
    /// The process's number, which is not 0.
    pub fn number(self) -> u32 {
        self.0
    }

    /// That of a process by its [number](Self::number).
    pub fn of(number: u32) -> Self {
        Self(number)
    }

    /// Stops it soon, or when it runs next.
    pub fn interrupt(self) {
        let pid = self.0 as pid_t;
        // SAFETY: a plain call. The process is a child that has not been waited for to its end, so that the number is its own.
        unsafe { libc::syscall(libc::SYS_tgkill, pid, pid, libc::SIGURG) };
    }
}

/// A process that this thread traces, and that stands unless [`Stub::run`] runs it.
pub struct Stub {
    idle: Idle,
    /// The guest's RAM, as a descriptor of its own.
    file: u64,
    /// The XSAVE area in the standard format, as the kernel has it.
    vectors: Vec<u8>,
    /// Whether the processor is to get that.
    reload: bool,
    /// To which processor it is bound.
    processor: Option<i32>,
    /// DR7.
    breakpoints: usize,
}

impl Stub {
    pub(super) fn attach(idle: Idle, file: &Memfd) -> Result<Self, HostError> {
        let mut stub = Self {
            idle,
            file: 0,
            vectors: vec![0; VECTOR_BYTES],
            reload: false,
            processor: None,
            breakpoints: 0,
        };
        let options = libc::PTRACE_O_EXITKILL | libc::PTRACE_O_TRACESYSGOOD;
        stub.ask(libc::PTRACE_SEIZE, 0, options as usize)?;
        stub.ask(libc::PTRACE_INTERRUPT, 0, 0)?;
        stub.wait()?;
        stub.until_breakpoint(Part::Empty, |_| {})?;
        let base = stub.idle.base;
        let list = stub.open(base + LIST_NAME)?;
        let protection = libc::PROT_READ as u64;
        let flags = (libc::MAP_SHARED | libc::MAP_FIXED) as u64;
        stub.call(libc::SYS_mmap, [stub.list(), LIST_BYTES as u64, protection, flags, list, 0])?;
        stub.call(libc::SYS_close, [list, 0, 0, 0, 0, 0])?;
        // The guest's time-stamp counter is not the host's.
        let (option, how) = (libc::PR_SET_TSC as u64, libc::PR_TSC_SIGSEGV as u64);
        stub.call(libc::SYS_prctl, [option, how, 0, 0, 0, 0])?;
        // Nor is its CPUID. Not every processor can be made to trap there.
        let _ = stub.call(libc::SYS_arch_prctl, [ARCH_SET_CPUID, 0, 0, 0, 0, 0]);
        let at = MOST_CALLS * CALL_WORDS * 8;
        let name = format!("{}{}\0", stub.idle.descriptors, file.raw());
        stub.write_list(at, name.as_bytes());
        stub.file = stub.open(stub.list() + at as u64)?;
        stub.read_vectors()?;
        Ok(stub)
    }

    /// Leaves nothing mapped, and lets go of it.
    pub(super) fn detach(mut self) -> Result<Idle, HostError> {
        (0..BREAKPOINTS).try_for_each(|n| self.set_breakpoint(n, 0))?;
        self.until_breakpoint(Part::Empty, |_| {})?;
        self.call(libc::SYS_close, [self.file, 0, 0, 0, 0, 0])?;
        let mut registers = self.registers()?;
        registers.rip = self.idle.base + Part::Wait.offset();
        self.set_registers(&registers)?;
        self.ask(libc::PTRACE_DETACH, 0, 0)?;
        Ok(self.idle)
    }

    /// The addresses that are its own: nothing else can be there.
    pub fn own(&self) -> std::ops::Range<u64> {
        self.idle.base..self.idle.base + OWN_BYTES
    }

    /// Stops it from other threads.
    pub fn interrupter(&self) -> Interrupter {
        Interrupter(self.idle.child.id())
    }

    /// Changes what is mapped, in this order. After an error less is changed than was asked for.
    ///
    /// # Panics
    /// If a change is to its own pages.
    pub fn change(&mut self, changes: &[Change]) -> Result<(), HostError> {
        let own = self.own();
        for part in changes.chunks(MOST_CALLS) {
            for (n, change) in part.iter().enumerate() {
                let call = self.call_of(change);
                assert!(
                    call[1] >= own.end || call[1] + call[2] <= own.start,
                    "a change of a stub's own pages"
                );
                for (k, word) in call.iter().enumerate() {
                    self.write_list((n * CALL_WORDS + k) * 8, &word.to_le_bytes());
                }
            }
            let list = self.list();
            let after = self.until_breakpoint(Part::Calls, |registers| {
                (registers.r12, registers.r13) = (list, part.len() as u64);
            })?;
            if after.r13 != 0 {
                return Err(failed("mmap", after.rax));
            }
        }
        Ok(())
    }

    fn call_of(&self, change: &Change) -> [u64; CALL_WORDS] {
        match *change {
            Change::Map { at, len, offset, write, execute } => {
                let when = |wanted: bool, bit: c_int| if wanted { bit } else { 0 };
                let protection =
                    libc::PROT_READ | when(write, libc::PROT_WRITE) | when(execute, libc::PROT_EXEC);
                let flags = libc::MAP_SHARED | libc::MAP_FIXED | libc::MAP_POPULATE;
                [libc::SYS_mmap as u64, at, len, protection as u64, flags as u64, self.file, offset]
            }
            Change::Unmap { at, len } => [libc::SYS_munmap as u64, at, len, 0, 0, 0, 0],
        }
    }

    /// Has the processor stop it before it executes what is at an address, by the `n`th breakpoint, whatever that was for.
    pub fn set_breakpoint(&mut self, n: usize, address: u64) -> Result<(), HostError> {
        const DR7: usize = 7;
        let register = |n: usize| std::mem::offset_of!(libc::user, u_debugreg) + 8 * n;
        assert!(n < BREAKPOINTS, "a breakpoint that the processor does not have");
        // Locally enabled: two bits each, of which the lower one. Kind and length are 0 for execution.
        let enabled = self.breakpoints | 1 << (2 * n);
        self.ask(libc::PTRACE_POKEUSER, register(DR7), self.breakpoints & !(1 << (2 * n)))?;
        self.ask(libc::PTRACE_POKEUSER, register(n), address as usize)?;
        self.ask(libc::PTRACE_POKEUSER, register(DR7), enabled)?;
        self.breakpoints = enabled;
        Ok(())
    }

    /// Its x87 and vector registers, as an XSAVE area in the standard format.
    pub fn vectors(&self) -> &[u8] {
        &self.vectors
    }

    /// The same, to be changed before it runs next.
    pub fn vectors_mut(&mut self) -> &mut [u8] {
        self.reload = true;
        &mut self.vectors
    }

    /// Has it run on this processor, if the kernel lets it.
    pub fn bind(&mut self, processor: i32) {
        if self.processor != Some(processor) {
            let pid = self.idle.child.id() as pid_t;
            self.processor = crate::affinity::bind(pid, processor).is_ok().then_some(processor);
        }
    }

    /// Runs it on these registers until it stops, and leaves there what it has then.
    pub fn run(&mut self, registers: &mut Registers) -> Result<Stop, HostError> {
        let mut raw = self.registers()?;
        registers.store(&mut raw);
        self.set_registers(&raw)?;
        if std::mem::take(&mut self.reload) {
            let mut part =
                libc::iovec { iov_base: self.vectors.as_mut_ptr().cast(), iov_len: self.vectors.len() };
            self.ask(libc::PTRACE_SETREGSET, NT_X86_XSTATE, &raw mut part as usize)?;
        }
        let stop = loop {
            self.ask(libc::PTRACE_SYSEMU, 0, 0)?;
            if let Some(stop) = self.why(self.wait()?)? {
                break stop;
            }
        };
        let mut raw = self.registers()?;
        if stop == Stop::SystemCall {
            raw.rax = raw.orig_rax;
        }
        *registers = Registers::of(&raw);
        self.read_vectors()?;
        Ok(stop)
    }

    /// What it has stopped for, if that means anything.
    fn why(&self, status: c_int) -> Result<Option<Stop>, HostError> {
        let signal = libc::WSTOPSIG(status);
        if signal == libc::SIGTRAP | 0x80 {
            return Ok(Some(Stop::SystemCall));
        }
        if status >> 16 != 0 || signal == libc::SIGURG {
            return Ok(Some(Stop::Interrupted));
        }
        // SAFETY: all zero is a siginfo_t.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        self.ask(libc::PTRACE_GETSIGINFO, 0, &raw mut info as usize)?;
        // Whatever another process has sent.
        if info.si_code <= 0 {
            return Ok(None);
        }
        // SAFETY: the field is there for all signals of this kind, and is plain data for all others.
        let address = unsafe { info.si_addr() } as u64;
        Ok(Some(Stop::Fault { signal, code: info.si_code, address }))
    }

    fn list(&self) -> u64 {
        self.idle.base + PAGE_SIZE as u64
    }

    fn write_list(&mut self, at: usize, bytes: &[u8]) {
        assert!(at + bytes.len() <= LIST_BYTES);
        // SAFETY: within the mapping, which nobody has a reference to.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.idle.list.as_ptr().add(at), bytes.len())
        };
    }

    fn open(&mut self, name: u64) -> Result<u64, HostError> {
        let flags = (libc::O_RDWR | libc::O_CLOEXEC) as u64;
        self.call(libc::SYS_openat, [0, name, flags, 0, 0, 0])
    }

    /// Has it make a system call; gives the result.
    fn call(&mut self, number: c_long, arguments: [u64; 6]) -> Result<u64, HostError> {
        let after = self.until_breakpoint(Part::Call, |registers| {
            registers.rax = number as u64;
            (registers.rdi, registers.rsi, registers.rdx) = (arguments[0], arguments[1], arguments[2]);
            (registers.r10, registers.r8, registers.r9) = (arguments[3], arguments[4], arguments[5]);
        })?;
        if after.rax > -4096_i64 as u64 {
            Err(failed("a stub's system call", after.rax))
        } else {
            Ok(after.rax)
        }
    }

    /// Runs a part of its own code, with system calls, to the breakpoint at the end; gives the registers there.
    fn until_breakpoint(
        &mut self,
        part: Part,
        set: impl FnOnce(&mut user_regs_struct),
    ) -> Result<user_regs_struct, HostError> {
        let mut registers = self.registers()?;
        registers.rip = self.idle.base + part.offset();
        registers.rbx = self.idle.base;
        registers.orig_rax = u64::MAX;
        registers.eflags = 0x202;
        // 64-bit code, whatever the guest's was.
        (registers.cs, registers.ss) = (0x33, 0x2b);
        set(&mut registers);
        self.set_registers(&registers)?;
        loop {
            self.ask(libc::PTRACE_CONT, 0, 0)?;
            let status = self.wait()?;
            match libc::WSTOPSIG(status) {
                libc::SIGTRAP if status >> 16 == 0 => return self.registers(),
                libc::SIGSEGV | libc::SIGBUS | libc::SIGILL => {
                    let source = io::Error::other("its own code faults");
                    return Err(HostError::Call { call: "a stub's system call", source });
                }
                // An interruption that came late; whoever sent it has left word elsewhere.
                _ => {}
            }
        }
    }

    fn registers(&self) -> Result<user_regs_struct, HostError> {
        // SAFETY: all zero is a user_regs_struct.
        let mut registers: user_regs_struct = unsafe { std::mem::zeroed() };
        self.ask(libc::PTRACE_GETREGS, 0, &raw mut registers as usize)?;
        Ok(registers)
    }

    fn set_registers(&self, registers: &user_regs_struct) -> Result<(), HostError> {
        self.ask(libc::PTRACE_SETREGS, 0, std::ptr::from_ref(registers) as usize)
    }

    fn read_vectors(&mut self) -> Result<(), HostError> {
        let mut part =
            libc::iovec { iov_base: self.vectors.as_mut_ptr().cast(), iov_len: self.vectors.len() };
        self.ask(libc::PTRACE_GETREGSET, NT_X86_XSTATE, &raw mut part as usize)?;
        self.vectors.truncate(part.iov_len);
        Ok(())
    }

    fn ask(&self, request: c_uint, address: usize, data: usize) -> Result<(), HostError> {
        let pid = self.idle.child.id() as pid_t;
        // SAFETY: where a request reads or writes memory of ours, `data` is the address of a live object of the type that
        // it wants.
        match unsafe { libc::ptrace(request, pid, address, data) } {
            -1 => Err(HostError::last("ptrace")),
            _ => Ok(()),
        }
    }

    /// Waits until it stops.
    fn wait(&self) -> Result<c_int, HostError> {
        let pid = self.idle.child.id() as pid_t;
        let mut status = 0;
        loop {
            // SAFETY: the status is an int.
            match unsafe { libc::waitpid(pid, &raw mut status, libc::__WALL) } {
                -1 => match HostError::last("waitpid") {
                    error if error.os_error() == Some(libc::EINTR) => {}
                    error => return Err(error),
                },
                _ if libc::WIFSTOPPED(status) => return Ok(status),
                _ => {
                    let source =
                        io::Error::other("the process that runs the guest's programs has been killed");
                    return Err(HostError::Call { call: "waitpid", source });
                }
            }
        }
    }
}

fn failed(call: &'static str, result: u64) -> HostError {
    HostError::Call { call, source: io::Error::from_raw_os_error(-(result as i64) as i32) }
}
