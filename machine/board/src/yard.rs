//! Where a machine's processors stand while a debugger looks at them.
//!
//! A closed yard calls every vCPU in: its thread leaves the dispatcher between two instructions, hands over all that
//! it owns, and waits for an order. So whoever holds the yard's lock has the processors to themselves, and nothing of
//! the engine or the chips knows of it. One yard serves all lives of a machine. The machine's time goes on meanwhile,
//! and so do the threads of its devices.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use devices::apic::Wake;
use dispatcher::{Dispatcher, Statistics};
use host::HostError;
use host::event::EventFd;
use vcpu::{CpuState, DebugEvent, DebugPoints, Environment, Invalidation};
use x86::paging::PageTables;

use crate::processor::{Processor, ProcessorView};
use crate::stop::{StopSwitch, Wakeup};
use crate::waker::Waker;

/// What a vCPU is to do when the yard opens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// Run.
    #[default]
    Run,
    /// Run one instruction and come back.
    Step,
    /// Stay in the yard.
    Stay,
}

/// How the machine has ended for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// By itself, with this status.
    Exited(u8),
    /// Otherwise, as if by a signal of this number.
    Killed(u8),
}

#[derive(Default)]
struct State {
    points: Arc<DebugPoints>,
    /// Of the life that runs; none between two.
    wakers: Vec<Arc<Waker>>,
    /// Who stands in the yard, by number.
    inside: Vec<Option<Processor>>,
    /// What they are to do.
    orders: Vec<Option<Order>>,
    /// What has brought them in, and whom, in order.
    events: VecDeque<(usize, DebugEvent)>,
    ending: Option<Ending>,
}

impl State {
    /// Whether all are inside, to stay for now.
    fn all_inside(&self) -> bool {
        let waits = |(inside, order): (&Option<_>, &Option<_>)| inside.is_some() && order.is_none();
        !self.inside.is_empty() && self.inside.iter().zip(&self.orders).all(waits)
    }
}

/// See the module's documentation.
pub struct Yard {
    closed: Arc<AtomicBool>,
    state: Mutex<State>,
    ordered: Condvar,
    news: EventFd,
}

impl Yard {
    /// A yard; a closed one keeps the machine from running its first instruction.
    pub fn new(closed: bool) -> Result<Self, HostError> {
        Ok(Self {
            closed: Arc::new(closed.into()),
            state: Mutex::default(),
            ordered: Condvar::new(),
            news: EventFd::new()?,
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A debugger that panicked while it changed a processor has left values, of which any will do.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Set whenever [`Self::stands`] or [`Self::ending`] may have changed.
    pub fn news(&self) -> &EventFd {
        &self.news
    }

    /// Calls the processors in.
    pub fn close(&self) {
        let wakers = {
            let state = self.lock();
            self.closed.store(true, Ordering::Release);
            state.wakers.clone()
        };
        wakers.iter().for_each(|waker| waker.wake());
    }

    /// Whether all stand in the yard.
    pub fn stands(&self) -> bool {
        self.lock().all_inside()
    }

    /// What has brought them in, and whom of them, the oldest first; nothing if they were called.
    pub fn take_event(&self) -> Option<(usize, DebugEvent)> {
        self.lock().events.pop_front()
    }

    /// How many processors the machine has; none between two lives.
    pub fn processors(&self) -> usize {
        self.lock().inside.len()
    }

    /// Where guest code is to be left from when the yard opens next.
    pub fn set_points(&self, points: DebugPoints) {
        self.lock().points = Arc::new(points);
    }

    /// Lets the processors go; who has no order runs. If another event waits to be told they stay for that.
    pub fn open(&self, orders: &[Order]) {
        let mut state = self.lock();
        if !state.events.is_empty() {
            self.news.notify();
            return;
        }
        self.closed.store(false, Ordering::Release);
        for (n, slot) in state.orders.iter_mut().enumerate() {
            *slot = Some(orders.get(n).copied().unwrap_or_default()).filter(|order| *order != Order::Stay);
        }
        drop(state);
        self.ordered.notify_all();
    }

    /// Looks at a processor that stands in the yard.
    pub fn with<R>(&self, n: usize, look: impl FnOnce(&mut Halted) -> R) -> Option<R> {
        let mut state = self.lock();
        let processor = state.inside.get_mut(n)?.as_mut()?;
        Some(look(&mut Halted { dispatcher: &mut processor.dispatcher, view: &mut processor.view }))
    }

    /// There will be no other life.
    pub fn end(&self, ending: Ending) {
        self.lock().ending.get_or_insert(ending);
        self.news.notify();
    }

    /// How the machine has ended, once it has.
    pub fn ending(&self) -> Option<Ending> {
        self.lock().ending
    }

    /// Whether a vCPU is to come in.
    pub(crate) fn calls(&self) -> Arc<AtomicBool> {
        self.closed.clone()
    }

    /// Wakes whoever stands in the yard when the machine stops.
    pub(crate) fn wakeup(self: &Arc<Self>) -> Wakeup {
        let yard = Arc::downgrade(self);
        Arc::new(move || {
            if let Some(yard) = yard.upgrade() {
                // With the lock, so that nobody is between looking and sleeping.
                drop(yard.lock());
                yard.ordered.notify_all();
            }
        })
    }

    /// A life begins, with these processors' wakers.
    pub(crate) fn begin(&self, wakers: Vec<Arc<Waker>>) {
        let mut state = self.lock();
        state.inside.resize_with(wakers.len(), || None);
        state.orders = vec![None; wakers.len()];
        state.wakers = wakers;
    }

    /// A life is over.
    pub(crate) fn finish(&self) {
        let mut state = self.lock();
        (state.wakers, state.inside, state.orders) = Default::default();
        state.events.clear();
        drop(state);
        self.news.notify();
    }

    /// A vCPU's thread begins.
    pub(crate) fn enter(&self, n: usize, mut processor: Processor, stop: &StopSwitch) -> (Processor, Order) {
        if self.closed.load(Ordering::Acquire) {
            return self.stand(n, processor, None, stop);
        }
        processor.dispatcher.set_debug_points(&self.lock().points);
        (processor, Order::Run)
    }

    /// A vCPU comes in, called or for an event, and waits for what it is to do. A machine that stops lets it go too.
    pub(crate) fn stand(
        &self,
        n: usize,
        processor: Processor,
        event: Option<DebugEvent>,
        stop: &StopSwitch,
    ) -> (Processor, Order) {
        if event.is_some() {
            self.close();
        }
        let mut state = self.lock();
        state.events.extend(event.map(|event| (n, event)));
        state.inside[n] = Some(processor);
        state.orders[n] = None;
        if state.all_inside() {
            self.news.notify();
        }
        let order = loop {
            if let Some(order) = state.orders[n].take() {
                break order;
            }
            if stop.is_set() {
                break Order::Run;
            }
            state = self.ordered.wait(state).unwrap_or_else(PoisonError::into_inner);
        };
        let mut processor = state.inside[n].take().expect("nobody else takes it out");
        processor.dispatcher.set_debug_points(&state.points);
        (processor, order)
    }
}

/// A processor that stands still.
pub struct Halted<'a> {
    dispatcher: &'a mut Dispatcher,
    view: &'a mut ProcessorView,
}

impl Halted<'_> {
    /// Its state.
    pub fn cpu(&self) -> &CpuState {
        self.dispatcher.cpu()
    }

    /// Its state, to change. What its engine has derived from the old one is to be [forgotten](Self::invalidate).
    pub fn cpu_mut(&mut self) -> &mut CpuState {
        self.dispatcher.cpu_mut()
    }

    /// Has its engine forget something.
    pub fn invalidate(&mut self, what: Invalidation) {
        self.dispatcher.engine_mut().invalidate(what);
    }

    /// The name of its engine.
    pub fn engine(&self) -> &'static str {
        self.dispatcher.engine().name()
    }

    /// What made it leave guest code.
    pub fn statistics(&self) -> Statistics {
        self.dispatcher.statistics()
    }

    /// Guest memory, for walks of the page tables.
    pub fn tables(&self) -> &dyn PageTables {
        self.view
    }

    /// Width of guest-physical addresses.
    pub fn physical_bits(&self) -> u8 {
        self.view.physical_bits()
    }

    /// CR8.
    pub fn task_priority(&mut self) -> u8 {
        self.view.task_priority()
    }

    /// Sets CR8.
    pub fn set_task_priority(&mut self, priority: u8) {
        self.view.set_task_priority(priority);
    }

    /// Reads guest-physical memory; `false` unless all of it is RAM. Devices are not asked: to be read changes some.
    pub fn read(&self, gpa: u64, data: &mut [u8]) -> bool {
        self.view.ram().read(gpa, data).is_ok()
    }

    /// Writes guest-physical memory; `false` unless all of it is RAM. Engines that hold code from there are told.
    pub fn write(&mut self, gpa: u64, data: &[u8]) -> bool {
        self.view.ram().write(gpa, data).is_ok()
    }
}
