//! The engines of one machine, and what they tell each other about guest memory.
//!
//! An engine that translates a page has to hear of every write to it. Its own guest code is kept from writing there by its own
//! software TLB; that of the others, by theirs. So before it reads the code it has each other engine that may write the
//! page *withdraw* that right, and waits until it has. Whoever writes there from then on takes the slow path, which notes
//! the write in the mailboxes of all that watch the page and kicks their vCPUs.
//!
//! An engine answers when it comes out of guest code. One that is *away* (asleep, in a device, with the monitor) need not
//! answer: it looks at its mailbox before it lets guest code run again. Both say what they do before they look at what the
//! other does, with a full fence in between, so that at least one sees the other. Whoever waits for others is away, which
//! is why two that wait for each other do not wait for ever.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

use memory::WatchSink;
use vcpu::Kick;

use crate::block::Range;
use crate::region::KickWord;

/// Most watchers that a machine's memory knows, which number the engines.
const SLOTS: usize = 64;
/// Most notes of one kind that are kept; a vCPU that sleeps while others write would collect them without end.
const MOST_NOTES: usize = 1024;
/// How often another's answer is looked for before it is waited for: some microseconds. A kicked vCPU that has a processor
/// comes out of guest code in less.
const LOOKS: u32 = 2000;

/// The engines of one machine.
pub struct Peers {
    count: usize,
    mailboxes: [OnceLock<Arc<Mailbox>>; SLOTS],
    straddling: Mutex<()>,
}

impl Peers {
    /// For a machine with so many engines.
    pub fn new(count: usize) -> Arc<Self> {
        let mailboxes = std::array::from_fn(|_| OnceLock::new());
        Arc::new(Self { count, mailboxes, straddling: Mutex::default() })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.count.max(1)
    }

    /// There is one, which need not tell anybody anything.
    pub fn is_alone(&self) -> bool {
        self.count <= 1
    }

    /// The mailbox of the engine whose watcher has this number.
    pub(crate) fn add(&self, slot: usize, mailbox: &Arc<Mailbox>) {
        // A machine's memory gives each number to one engine in its time.
        let _ = self.mailboxes[slot].set(mailbox.clone());
    }

    /// Held while a locked instruction whose operand lies in two pages is carried out in parts.
    pub(crate) fn straddling(&self) -> MutexGuard<'_, ()> {
        self.straddling.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the engines of this set withdraw from a page, and waits until they have.
    pub(crate) fn withdraw(&self, slots: u64, page: u64) {
        let asked = |slot: usize| slots >> slot & 1 != 0;
        let mailboxes =
            || (0..SLOTS).filter(|slot| asked(*slot)).filter_map(|slot| self.mailboxes[slot].get());
        // All are told before any is waited for.
        let tickets: Vec<_> = mailboxes().map(|mailbox| (mailbox, mailbox.ask(page))).collect();
        tickets.into_iter().for_each(|(mailbox, ticket)| mailbox.wait_for(ticket));
    }
}

/// What others want an engine to know.
#[derive(Default)]
pub struct News {
    /// Writes to translated code by anyone but the guest's own stores.
    pub written: Vec<Range>,
    /// There were too many to tell.
    pub all_written: bool,
    /// Pages that guest code is to write no more.
    pub withdrawn: Vec<u64>,
    /// There were too many to tell.
    pub all_withdrawn: bool,
}

#[derive(Default)]
struct Notes {
    news: News,
    /// How many withdrawals have been asked for.
    asked: u64,
}

/// Where others leave notes for one engine.
pub struct Mailbox {
    notes: Mutex<Notes>,
    /// Whether there is anything, so that the engine need not take the lock at each of its runs.
    waits: AtomicBool,
    /// Whether withdrawals are among it.
    asked: AtomicBool,
    /// The engine may be running guest code, and answers.
    there: AtomicBool,
    /// How many withdrawals it has seen to.
    answered: AtomicU64,
    /// How many wait for an answer.
    awaited: AtomicU32,
    answer: Condvar,
    kick: Arc<KickWord>,
}

impl Mailbox {
    /// An empty one.
    pub fn new(kick: Arc<KickWord>) -> Self {
        Self {
            notes: Mutex::default(),
            waits: AtomicBool::new(false),
            asked: AtomicBool::new(false),
            there: AtomicBool::new(false),
            answered: AtomicU64::new(0),
            awaited: AtomicU32::new(0),
            answer: Condvar::new(),
            kick,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes all that has come, with a number to be given to [`Self::answer`].
    pub fn take(&self) -> Option<(News, u64)> {
        if !self.waits.load(Ordering::SeqCst) {
            return None;
        }
        let mut notes = self.lock();
        // Changed with the lock held only, so that they agree with the notes.
        self.waits.store(false, Ordering::Relaxed);
        self.asked.store(false, Ordering::Relaxed);
        Some((std::mem::take(&mut notes.news), notes.asked))
    }

    /// Takes the withdrawals only.
    pub fn take_withdrawals(&self) -> Option<(News, u64)> {
        if !self.asked.load(Ordering::SeqCst) {
            return None;
        }
        let mut notes = self.lock();
        self.asked.store(false, Ordering::Relaxed);
        let withdrawn = std::mem::take(&mut notes.news.withdrawn);
        let all_withdrawn = std::mem::take(&mut notes.news.all_withdrawn);
        Some((News { withdrawn, all_withdrawn, ..News::default() }, notes.asked))
    }

    /// All withdrawals up to this number have been seen to.
    pub fn answer(&self, number: u64) {
        self.answered.store(number, Ordering::SeqCst);
        self.notify();
    }

    /// The engine may run guest code from here on: what it has to know it has still to [take](Self::take).
    pub fn arrive(&self) {
        self.there.swap(true, Ordering::SeqCst);
    }

    /// It runs none until it arrives again.
    pub fn depart(&self) {
        self.there.swap(false, Ordering::SeqCst);
        self.notify();
    }

    fn notify(&self) {
        if self.awaited.load(Ordering::SeqCst) != 0 {
            // With the lock, so that nobody is between looking and sleeping.
            drop(self.lock());
            self.answer.notify_all();
        }
    }

    fn ask(&self, page: u64) -> u64 {
        let mut notes = self.lock();
        notes.asked += 1;
        let ticket = notes.asked;
        let news = &mut notes.news;
        if news.withdrawn.len() < MOST_NOTES {
            news.withdrawn.push(page);
        } else {
            news.all_withdrawn = true;
        }
        self.asked.store(true, Ordering::SeqCst);
        self.waits.store(true, Ordering::SeqCst);
        drop(notes);
        self.kick.kick();
        ticket
    }

    fn is_settled(&self, ticket: u64) -> bool {
        !self.there.load(Ordering::SeqCst) || self.answered.load(Ordering::SeqCst) >= ticket
    }

    fn wait_for(&self, ticket: u64) {
        for _ in 0..LOOKS {
            if self.is_settled(ticket) {
                return;
            }
            std::hint::spin_loop();
        }
        // It may have no processor at the moment; this one's will do.
        let mut notes = self.lock();
        self.awaited.fetch_add(1, Ordering::SeqCst);
        while !self.is_settled(ticket) {
            notes = self.answer.wait(notes).unwrap_or_else(PoisonError::into_inner);
        }
        self.awaited.fetch_sub(1, Ordering::SeqCst);
    }
}

/// An engine that may run guest code; it departs when this is dropped.
pub struct There(Arc<Mailbox>);

impl There {
    /// It arrives.
    pub fn new(mailbox: &Arc<Mailbox>) -> Self {
        mailbox.arrive();
        Self(mailbox.clone())
    }
}

impl Drop for There {
    fn drop(&mut self) {
        self.0.depart();
    }
}

thread_local! {
    /// The mailbox of the engine that is writing on this thread: it drops its own blocks at once.
    static WRITER: Cell<*const Mailbox> = const { Cell::new(std::ptr::null()) };
}

/// Carries out a write of the engine with this mailbox, which sees to its own blocks itself.
pub fn writing<R>(mailbox: &Arc<Mailbox>, write: impl FnOnce() -> R) -> R {
    WRITER.set(Arc::as_ptr(mailbox));
    let result = write();
    WRITER.set(std::ptr::null());
    result
}

impl WatchSink for Mailbox {
    fn written(&self, gpa: u64, len: usize) {
        if std::ptr::eq(WRITER.get(), self) {
            return;
        }
        let mut notes = self.lock();
        let news = &mut notes.news;
        // A device may write the same buffer over and over before the vCPU looks: one note will do.
        let range = Range { start: gpa, len: len as u64 };
        if news.written.last() != Some(&range) && !news.all_written {
            news.written.push(range);
        }
        if news.written.len() > MOST_NOTES {
            news.written.clear();
            news.all_written = true;
        }
        self.waits.store(true, Ordering::SeqCst);
        drop(notes);
        self.kick.kick();
    }
}
