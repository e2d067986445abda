//! The threads that serve a share. They take requests from whoever has them when they have time, so that no more are
//! taken than are being carried out: what waits, waits in the guest's memory.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::{self, JoinHandle};

use super::{Share, ShareError};

/// As many requests are carried out at a time. One that waits for the disk does not hold up the rest.
const THREADS: usize = 4;

/// Where requests come from and answers go, called on threads of the pool.
pub trait Requests: Send + Sync {
    /// By which a request that has been taken is known.
    type Token;

    /// Takes a request and puts it into `request`, which holds no more than [`super::MAX_REQUEST`] bytes to be any
    /// good.
    fn take(&self, request: &mut Vec<u8>) -> Option<Ticket<Self::Token>>;

    /// A request has been carried out. Without a byte in it there is no answer.
    fn answer(&self, token: Self::Token, reply: &[u8]);
}

/// A request that has been taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket<T> {
    /// For [`Requests::answer`].
    pub token: T,
    /// Bytes there is room for in the answer.
    pub room: usize,
    /// Another request waits.
    pub more: bool,
}

#[derive(Debug, Default)]
struct State {
    /// There may be requests that no thread has looked for.
    rung: bool,
    /// Threads at work.
    busy: usize,
    ended: bool,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// Rung or ended.
    work: Condvar,
    /// Not busy.
    idle: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // No code that holds this lock can panic half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ring(&self) {
        self.lock().rung = true;
        self.work.notify_one();
    }

    /// Waits until there is work; `false` at the end.
    fn wait(&self) -> bool {
        let mut state = self.lock();
        while !state.rung && !state.ended {
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.rung = false;
        state.busy += usize::from(!state.ended);
        !state.ended
    }

    fn rest(&self) {
        let mut state = self.lock();
        state.busy -= 1;
        if state.busy == 0 {
            self.idle.notify_all();
        }
    }
}

/// The threads. Dropping this ends them, after what they are doing.
#[derive(Debug)]
pub struct Pool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// Has a [`Pool`] look for requests, from any thread.
#[derive(Clone, Debug)]
pub struct PoolBell(Arc<Shared>);

impl PoolBell {
    /// There may be requests. Never waits for them.
    pub fn ring(&self) {
        self.0.ring();
    }
}

impl Pool {
    /// Starts the threads.
    pub fn start<R: Requests + 'static>(share: &Share, requests: &Arc<R>) -> Result<Self, ShareError> {
        let mut pool = Self { shared: Arc::default(), threads: Vec::new() };
        for _ in 0..THREADS {
            let (share, shared, requests) = (share.clone(), pool.shared.clone(), requests.clone());
            let (ready, started) = mpsc::channel();
            let run = move || {
                let worker = match share.worker() {
                    Ok(worker) => worker,
                    Err(error) => return drop(ready.send(Err(error))),
                };
                let (mut request, mut reply) = (Vec::new(), Vec::new());
                let _ = ready.send(Ok(()));
                while shared.wait() {
                    while let Some(ticket) = requests.take(&mut request) {
                        if ticket.more {
                            shared.ring();
                        }
                        worker.handle(&request, ticket.room, &mut reply);
                        requests.answer(ticket.token, &reply);
                    }
                    shared.rest();
                }
            };
            let thread =
                thread::Builder::new().name("share".into()).spawn(run).map_err(ShareError::Thread)?;
            pool.threads.push(thread);
            // It ends only with an answer.
            started.recv().unwrap_or(Ok(())).map_err(ShareError::Thread)?;
        }
        Ok(pool)
    }

    /// By which it is told of requests.
    pub fn bell(&self) -> PoolBell {
        PoolBell(self.shared.clone())
    }

    /// Waits until no request is being carried out.
    pub fn settle(&self) {
        let mut state = self.shared.lock();
        while state.busy > 0 {
            state = self.shared.idle.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.lock().ended = true;
        self.shared.work.notify_all();
        for thread in self.threads.drain(..) {
            // A panic there was reported by the panic hook.
            let _ = thread.join();
        }
    }
}
