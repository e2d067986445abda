//! A stub and its owner.

use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU32, Ordering};

use libc::{c_int, c_long, pid_t};

use super::breakpoints::{BREAKPOINTS, Breakpoints};
use super::frame::{COMPONENTS, INFO, INFO_BYTES, Info, MAGIC2, SOFTWARE, Ucontext, vector_bytes};
use super::image::OWN_BYTES;
use super::mail::{CALL_WORDS, LIST, MAIL_BYTES, MOST_CALLS, NAME, SETUP, STACK, STACK_BYTES, UCONTEXT};
use super::turns::{Turns, WATCHED};
use super::{Change, Failure, Idle, Interrupter, Registers, Stop};
use crate::affinity::{Affinity, Beside};
use crate::{HostError, Memfd, PAGE_SIZE};

/// Where the XSAVE area is that the guest goes on with.
const VECTORS: usize = (UCONTEXT + size_of::<Ucontext>()).next_multiple_of(64);
/// MXCSR in such an area, and which of its bits may be set.
const MXCSR: usize = 24;
const MXCSR_MASK: usize = 28;
/// The header of an XSAVE area (SDM vol. 1 ch. 13.4.2): which components it has, and words that are 0.
const XSTATE_BV: usize = 512;
const HEADER: Range<usize> = 520..576;

/// A process that stands unless [`Stub::run`] runs it.
pub struct Stub {
    idle: Idle,
    /// The guest's RAM, as a descriptor of its own.
    file: u64,
    /// Where in the mail the kernel puts the registers of what has been stopped, and the XSAVE area.
    stopped: [usize; 2],
    /// The XSAVE area in the standard format, as the kernel has it, with its own words.
    vectors: Vec<u8>,
    software: [u8; SOFTWARE.end - SOFTWARE.start],
    mxcsr_mask: u32,
    /// Calls in the list, which are made before it runs.
    calls: usize,
    breakpoints: Breakpoints,
    turns: Turns,
    /// Where it may run.
    place: Option<Beside>,
}

impl Stub {
    pub(super) fn attach(idle: Idle, file: &Memfd) -> Result<Self, HostError> {
        let mut stub = Self {
            idle,
            file: 0,
            stopped: [STACK; 2],
            vectors: Vec::new(),
            software: [0; SOFTWARE.end - SOFTWARE.start],
            mxcsr_mask: 0,
            calls: 0,
            breakpoints: Breakpoints::default(),
            turns: Turns::new(),
            place: None,
        };
        if std::mem::take(&mut stub.idle.is_new) {
            stub.until_it_stands(0)?;
        }
        let name = format!("{}{}\0", stub.idle.descriptors, file.raw());
        stub.idle.post.put_bytes(NAME, name.as_bytes());
        let flags = (libc::O_RDWR | libc::O_CLOEXEC) as u64;
        stub.file = stub.call(libc::SYS_openat, [0, stub.address(NAME), flags, 0, 0, 0])?;
        stub.look_at_a_frame()?;
        Ok(stub)
    }

    /// Has a signal stop it before it executes anything, to see what the kernel's frames are like here.
    fn look_at_a_frame(&mut self) -> Result<(), HostError> {
        let unlike = || {
            let source = io::Error::other("signals are not as popf knows them");
            HostError::Call { call: "rt_sigreturn", source }
        };
        self.interrupter().interrupt();
        let registers = Registers { selectors: [0, 0x33, 0x2b, 0, 0, 0], ..Registers::default() };
        self.idle.post.put(UCONTEXT, Ucontext::new(&registers, self.stack(), 0));
        self.command(true)?;
        self.until_it_stands(0)?;
        // It is the first thing on the stack: behind the registers comes what is said of the signal, then the XSAVE area.
        let area = self.offset(self.idle.post.frame(), INFO).ok_or_else(unlike)?;
        let context = self.idle.post.ucontext(area);
        let vectors = self.offset(context.vectors, HEADER.end).ok_or_else(unlike)?;
        self.stopped = [area, vectors];
        let mut start = [0; HEADER.end];
        self.idle.post.get_bytes(vectors, &mut start);
        self.software.copy_from_slice(&start[SOFTWARE]);
        let len = vector_bytes(&self.software).filter(|len| VECTORS + len + size_of_val(&MAGIC2) <= SETUP);
        let len = len.filter(|len| (HEADER.end..=STACK + STACK_BYTES - vectors).contains(len));
        self.vectors = vec![0; len.ok_or_else(unlike)?];
        let mask = u32::from_le_bytes(std::array::from_fn(|n| start[MXCSR_MASK + n]));
        // 0 is what processors of old have (SDM vol. 1 ch. 11.6.6).
        self.mxcsr_mask = if mask == 0 { 0xffbf } else { mask };
        self.read_vectors();
        Ok(())
    }

    /// Leaves nothing mapped, and lets go of it.
    pub(super) fn detach(mut self) -> Result<Idle, HostError> {
        self.set_breakpoints(Default::default())?;
        let own = self.own();
        self.calls = 0;
        self.call(libc::SYS_munmap, [0, own.start, 0, 0, 0, 0])?;
        self.call(libc::SYS_munmap, [own.end, super::image::END - own.end, 0, 0, 0, 0])?;
        self.call(libc::SYS_close, [self.file, 0, 0, 0, 0, 0])?;
        Ok(self.idle)
    }

    /// The addresses that are its own: nothing else can be there.
    pub fn own(&self) -> Range<u64> {
        self.idle.base..self.idle.base + OWN_BYTES
    }

    /// Stops it from other threads.
    pub fn interrupter(&self) -> Interrupter {
        Interrupter::of(self.idle.child.id())
    }

    /// Changes what is mapped, in this order and before it runs next. After an error less is changed than was asked for.
    ///
    /// # Panics
    /// If a change is to its own pages.
    pub fn change(&mut self, changes: &[Change]) -> Result<(), HostError> {
        let own = self.own();
        for change in changes {
            let call = self.call_of(change);
            assert!(call[1] >= own.end || call[1] + call[2] <= own.start, "a change of a stub's own pages");
            if self.calls == MOST_CALLS {
                self.make_calls()?;
            }
            self.list(call);
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

    /// Has the processor stop it before it executes what is at one of these addresses, and at no others that were set before.
    pub fn set_breakpoints(&mut self, addresses: [Option<u64>; BREAKPOINTS]) -> Result<(), HostError> {
        let pid = self.pid();
        self.breakpoints.set(pid, addresses)
    }

    /// For how many cycles of the time-stamp counter the guest's code has run in the last run, as far as the stub can tell, which it may have
    /// had to do by the guest's word.
    pub fn cycles(&self) -> u64 {
        self.idle.post.cycles()
    }

    /// Its x87 and vector registers, as an XSAVE area in the standard format.
    pub fn vectors(&self) -> &[u8] {
        &self.vectors
    }

    /// The same, to be changed before it runs next.
    pub fn vectors_mut(&mut self) -> &mut [u8] {
        &mut self.vectors
    }

    /// Has it run where it does best, given where this thread may.
    pub fn bind(&mut self, affinity: &mut Affinity) {
        let apart = self.turns.are_apart();
        let Ok(place) = affinity.beside(apart) else { return };
        if self.place != Some(place) {
            self.place = affinity.bind_other(self.pid(), place).is_ok().then_some(place);
        }
    }

    /// Runs it on these registers until it stops, and leaves there what it has then. `last`: another that has been run since
    /// this one was, and that may watch for its next command where this one is to run.
    pub fn run(&mut self, registers: &mut Registers, last: Option<&Stub>) -> Result<Stop, Failure> {
        let data = [registers.selectors[0], registers.selectors[3]];
        let context = Ucontext::new(registers, self.stack(), self.address(VECTORS));
        self.write_vectors();
        self.idle.post.put(UCONTEXT, context);
        self.idle.post.set_rest(registers.bases, [data[1], data[0]]);
        let calls = self.calls;
        let begun = crate::cpu::rdtsc();
        let watches = if matches!(self.place, Some(Beside::Apart(_))) { WATCHED } else { 0 };
        self.idle.post.watches().store(watches, Ordering::Relaxed);
        self.command(true).map_err(Failure::Before)?;
        // Not before this one is awake: the processor would fall asleep in between.
        if let Some(last) = last {
            last.idle.post.watches().store(0, Ordering::Relaxed);
        }
        self.until_it_stands(watches.into()).map_err(Failure::During)?;
        // What the guest may say of its work: who lies has slower turns.
        let work = self.cycles();
        self.turns.ended(crate::cpu::rdtsc().wrapping_sub(begun).saturating_sub(work), work);
        if calls != 0 {
            self.look_at_calls().map_err(Failure::Before)?;
        }
        let context = self.idle.post.ucontext(self.stopped[0]);
        let mut info = [0; INFO_BYTES];
        self.idle.post.get_bytes(self.stopped[0] + INFO, &mut info);
        *registers = context.registers(self.idle.post.bases(), data);
        // The guest's code has jumped to the stub's own. A signal may have found it with the secret in a register.
        if self.own().contains(&registers.rip) {
            self.idle.post.put(self.stopped[0], Ucontext::default());
            registers.gpr = Default::default();
        }
        self.read_vectors();
        Ok(why(Info::of(&info), context.page_fault(), registers.rip))
    }

    /// Takes its vector registers from the frame, less what no processor would have put there.
    fn read_vectors(&mut self) {
        self.idle.post.get_bytes(self.stopped[1], &mut self.vectors);
        let mxcsr = &mut self.vectors[MXCSR..MXCSR_MASK];
        mxcsr.iter_mut().zip(self.mxcsr_mask.to_le_bytes()).for_each(|(byte, mask)| *byte &= mask);
        let components = &self.software[COMPONENTS];
        self.vectors[XSTATE_BV..HEADER.start]
            .iter_mut()
            .zip(components)
            .for_each(|(byte, mask)| *byte &= mask);
        self.vectors[HEADER].fill(0);
    }

    fn write_vectors(&mut self) {
        self.vectors[SOFTWARE].copy_from_slice(&self.software);
        self.idle.post.put_bytes(VECTORS, &self.vectors);
        self.idle.post.put(VECTORS + self.vectors.len(), MAGIC2);
    }

    /// Has it make a system call; gives the result.
    fn call(&mut self, number: c_long, arguments: [u64; 6]) -> Result<u64, HostError> {
        let mut call = [number as u64; CALL_WORDS];
        call[1..].copy_from_slice(&arguments);
        self.list(call);
        self.make_calls()
    }

    fn list(&mut self, call: [u64; CALL_WORDS]) {
        self.idle.post.put(LIST + self.calls * size_of_val(&call), call);
        self.calls += 1;
    }

    /// Has it make those of the list; gives the result of the last.
    fn make_calls(&mut self) -> Result<u64, HostError> {
        self.command(false)?;
        self.until_it_stands(0)?;
        self.look_at_calls()
    }

    fn look_at_calls(&self) -> Result<u64, HostError> {
        match self.idle.post.calls() {
            (0, result) => Ok(result),
            (_, result) => {
                let source = io::Error::from_raw_os_error(-(result as i64) as i32);
                Err(HostError::Call { call: "a stub's system call", source })
            }
        }
    }

    /// Has it carry out the list, and the guest go on or not.
    fn command(&mut self, resumes: bool) -> Result<(), HostError> {
        let post = &self.idle.post;
        post.set_command(std::mem::take(&mut self.calls), resumes, self.idle.secret);
        post.stands().store(0, Ordering::Relaxed);
        // Either it sees the command before it sleeps, or we see that it sleeps.
        post.command().store(self.idle.awaited, Ordering::SeqCst);
        if post.sleeps().load(Ordering::SeqCst) == 0 {
            return Ok(());
        }
        loop {
            // SAFETY: one byte that lives as long.
            match unsafe { libc::write(self.idle.commands.as_raw_fd(), [0_u8].as_ptr().cast(), 1) } {
                -1 => match HostError::last("write") {
                    error if error.os_error() == Some(libc::EINTR) => {}
                    // Full of what it was written when it did not sleep.
                    error if error.os_error() == Some(libc::EAGAIN) => return Ok(()),
                    error => return Err(error),
                },
                _ => return Ok(()),
            }
        }
    }

    /// Waits until it stands, by the kernel's word, having watched it for so many cycles.
    fn until_it_stands(&mut self, watched: u64) -> Result<(), HostError> {
        watch(self.idle.post.stands(), watched);
        let last = self.idle.post.command().load(Ordering::Relaxed);
        loop {
            let mut word = [0; 4];
            // SAFETY: bytes that live as long. A pipe gives as much as was written at once.
            match unsafe { libc::read(self.idle.words.as_raw_fd(), word.as_mut_ptr().cast(), word.len()) } {
                4 => {
                    self.idle.awaited = u32::from_le_bytes(word);
                    if self.idle.awaited != last {
                        return Ok(());
                    }
                    // See `mail.rs`: it will stand again.
                }
                0 => {
                    let source =
                        io::Error::other("the process that runs the guest's programs has been killed");
                    return Err(HostError::Call { call: "read", source });
                }
                _ => match HostError::last("read") {
                    error if error.os_error() == Some(libc::EINTR) => {}
                    error => return Err(error),
                },
            }
        }
    }

    /// The stack of signals, as sigaltstack(2) wants it: each begins at its end, whatever the guest's own is.
    fn stack(&self) -> [u64; 3] {
        super::stack(self.idle.base)
    }

    /// Where something in the mail is for the stub.
    fn address(&self, at: usize) -> u64 {
        self.idle.base + (PAGE_SIZE + at) as u64
    }

    /// The reverse, for something on the stack of signals that has so many bytes.
    fn offset(&self, address: u64, len: usize) -> Option<usize> {
        let at = address.checked_sub(self.address(0)).filter(|at| *at < MAIL_BYTES as u64)? as usize;
        (at >= STACK && at + len <= STACK + STACK_BYTES).then_some(at)
    }

    fn pid(&self) -> pid_t {
        self.idle.child.id() as pid_t
    }
}

/// Watches a word until it is set, or for so many cycles.
fn watch(word: &AtomicU32, cycles: u64) {
    let begun = crate::cpu::rdtsc();
    while word.load(Ordering::Acquire) == 0 && crate::cpu::rdtsc().wrapping_sub(begun) < cycles {
        std::hint::spin_loop();
    }
}

/// What it stands for, behind or at this instruction.
fn why(info: Info, page_fault: Option<u32>, rip: u64) -> Stop {
    match info {
        Info { signal: libc::SIGSYS, address, .. } if address == rip => Stop::SystemCall,
        // Sent by a process: by us, or what does not matter.
        Info { code: ..=0, .. } | Info { signal: libc::SIGURG, .. } => Stop::Interrupted,
        Info { signal, code, address } => match page_fault {
            Some(error) if signal == libc::SIGSEGV => Stop::PageFault { address, error },
            _ => Stop::Fault { signal, code, address },
        },
    }
}
