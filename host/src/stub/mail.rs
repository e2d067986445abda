//! The memory that a stub and its owner share: commands one way, what came of them the other, and the frames of signals.
//!
//! While the guest's code runs in a stub it can write here whatever it likes, but for the orders. So nothing that is read here is
//! believed before the stub stands by the kernel's word, and then it is worth as much as a register of the guest's.
//!
//! A stub that stands has told the kernel which command it waits for. If that is the last one, the guest's code has jumped to
//! where it says so: then the stub carries that out once more, which comes to nothing without the secret, and stands again.

use std::sync::atomic::AtomicU32;

use super::frame::Ucontext;
use crate::{HostError, Mapping, Memfd, PAGE_SIZE, Protection};

/// Bytes of it.
pub const MAIL_BYTES: usize = 1 << 16;
/// Of them those at the beginning that the stub can only read: [`Orders`].
pub const READ_ONLY: usize = PAGE_SIZE;
/// Where [`Words`] are.
pub const WORDS: usize = READ_ONLY;
/// Where the stack of signals is, and how long.
pub const STACK: usize = 0x2000;
pub const STACK_BYTES: usize = 0x4000;
/// Where the registers are that the guest goes on with.
pub const UCONTEXT: usize = 0x6000;
/// Where [`Setup`] is.
pub const SETUP: usize = 0x7c00;
/// Where the list of system calls is, and words of each.
pub const LIST: usize = 0x8000;
pub const CALL_WORDS: usize = 7;
/// Calls that it holds; behind them is room for a name.
pub const MOST_CALLS: usize = (MAIL_BYTES - LIST) / (8 * CALL_WORDS) - 2;
/// Where that is.
pub const NAME: usize = LIST + MOST_CALLS * CALL_WORDS * 8;

/// What the owner says.
#[repr(C, align(64))]
pub struct Orders {
    /// The number of the last command. A stub that stands waits for the one that it has asked for.
    pub command: AtomicU32,
    /// For how many cycles of the time-stamp counter it watches for the next before it sleeps.
    pub watches: AtomicU32,
    /// Calls in the list.
    pub calls: u32,
    /// Whether the guest goes on behind them.
    pub resumes: u32,
    /// Bases of FS and GS, and selectors of DS and ES, to go on with.
    pub bases: [u64; 2],
    pub data: [u16; 2],
}

/// What the stub says, and the guest may have said.
#[repr(C, align(64))]
pub struct Words {
    /// Set when it stands.
    pub stands: AtomicU32,
    /// Whether it has to be written to.
    pub sleeps: AtomicU32,
    /// The command that it waits for.
    pub awaited: u32,
    /// Where what wakes it goes.
    pub byte: u32,
    /// Bases of FS and GS that it stands with.
    pub bases: [u64; 2],
    /// Where the registers of what has been stopped are.
    pub frame: u64,
    /// When the guest has gone on, and when it has been stopped, by the time-stamp counter.
    pub begun: u64,
    pub ended: u64,
    /// How many calls of the list have not been made, and the result of the last.
    pub left: u64,
    pub result: u64,
    /// What the filter wants to see: from the owner, and taken away by the stub before the guest goes on.
    pub secret: [u64; 2],
}

/// `struct sigaction` of the kernel's interface.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Action {
    pub handler: u64,
    pub flags: u64,
    pub restorer: u64,
    pub mask: u64,
}

/// Instructions that its filter may have.
pub const MOST_FILTER: usize = 64;

/// What a stub's beginning asks the kernel for.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Setup {
    /// `struct sigaltstack`.
    pub stack: [u64; 3],
    pub action: Action,
    pub program: Fprog,
    pub filter: [libc::sock_filter; MOST_FILTER],
}

/// `struct sock_fprog`, with an address of the stub's.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Fprog {
    pub len: u16,
    pub filter: u64,
}

const _: () = assert!(
    size_of::<Orders>() <= READ_ONLY
        && WORDS + size_of::<Words>() <= STACK
        && STACK + STACK_BYTES <= UCONTEXT
        && SETUP + size_of::<Setup>() <= LIST
);

/// The owner's view of it.
pub struct Post {
    view: Mapping,
    pub memory: Memfd,
}

impl Post {
    pub fn new() -> Result<Self, HostError> {
        let memory = Memfd::new("stub", MAIL_BYTES)?;
        Ok(Self { view: Mapping::shared(&memory, 0, MAIL_BYTES, Protection::ReadWrite)?, memory })
    }

    fn orders(&self) -> *mut Orders {
        self.view.as_ptr().cast()
    }

    fn words(&self) -> *mut Words {
        // SAFETY: within the mapping.
        unsafe { self.view.as_ptr().add(WORDS).cast() }
    }

    /// Set by the stub when it stands.
    pub fn stands(&self) -> &AtomicU32 {
        // SAFETY: within the mapping, which lives as long, and changed only by atomic writes.
        unsafe { &(*self.words()).stands }
    }

    /// Whether it has to be written to.
    pub fn sleeps(&self) -> &AtomicU32 {
        // SAFETY: as above.
        unsafe { &(*self.words()).sleeps }
    }

    /// The number of the last command.
    pub fn command(&self) -> &AtomicU32 {
        // SAFETY: as above.
        unsafe { &(*self.orders()).command }
    }

    /// Writes there.
    ///
    /// # Panics
    /// If that is not within it.
    pub fn put<T: Copy>(&self, at: usize, value: T) {
        assert!(at + size_of::<T>() <= MAIL_BYTES);
        // SAFETY: within the mapping, which nobody has a reference to but for words by themselves.
        unsafe { self.view.as_ptr().add(at).cast::<T>().write_unaligned(value) };
    }

    /// The same for bytes.
    pub fn put_bytes(&self, at: usize, bytes: &[u8]) {
        assert!(at + bytes.len() <= MAIL_BYTES);
        // SAFETY: as above.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.view.as_ptr().add(at), bytes.len()) };
    }

    /// Reads there bytes that may be anything.
    pub fn get_bytes(&self, at: usize, bytes: &mut [u8]) {
        assert!(at + bytes.len() <= MAIL_BYTES);
        // SAFETY: as above; the stub stands, so that nobody writes there.
        unsafe { std::ptr::copy_nonoverlapping(self.view.as_ptr().add(at), bytes.as_mut_ptr(), bytes.len()) };
    }

    /// Registers that are there.
    pub fn ucontext(&self, at: usize) -> Ucontext {
        assert!(at + size_of::<Ucontext>() <= MAIL_BYTES);
        // SAFETY: within the mapping, and any bytes are one.
        unsafe { self.view.as_ptr().add(at).cast::<Ucontext>().read_unaligned() }
    }

    /// For how many cycles the stub watches for the next command.
    pub fn watches(&self) -> &AtomicU32 {
        // SAFETY: within the mapping, as long as that lives.
        unsafe { &(*self.orders()).watches }
    }

    /// Says what is to be done: so many calls, and whether the guest goes on.
    pub fn set_command(&self, calls: usize, resumes: bool, secret: [u64; 2]) {
        let (orders, words) = (self.orders(), self.words());
        // SAFETY: within the mapping, and plain words.
        unsafe {
            (*orders).calls = calls as u32;
            (*orders).resumes = u32::from(resumes);
            (*words).secret = secret;
        }
    }

    /// Says what no frame has: bases of FS and GS, and selectors of DS and ES, to go on with.
    pub fn set_rest(&self, bases: [u64; 2], data: [u16; 2]) {
        let orders = self.orders();
        // SAFETY: as above.
        unsafe { ((*orders).bases, (*orders).data) = (bases, data) };
    }

    /// Where the stub has said that the registers of what has been stopped are.
    pub fn frame(&self) -> u64 {
        // SAFETY: as above.
        unsafe { (*self.words()).frame }
    }

    /// What the stub has said of the bases that it stands with.
    pub fn bases(&self) -> [u64; 2] {
        // SAFETY: as above.
        unsafe { (*self.words()).bases }
    }

    /// For how many cycles it has said that the guest has run.
    pub fn cycles(&self) -> u64 {
        let words = self.words();
        // SAFETY: as above.
        unsafe { (*words).ended.wrapping_sub((*words).begun) }
    }

    /// What it has said of its calls: how many are left, and the result of the last.
    pub fn calls(&self) -> (u64, u64) {
        let words = self.words();
        // SAFETY: as above.
        unsafe { ((*words).left, (*words).result) }
    }
}
