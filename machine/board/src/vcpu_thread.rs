//! What a vCPU's thread does from the machine's start to its end.

use std::sync::Arc;
use std::thread;

use dispatcher::Stop;

use crate::processor::Processor;
use crate::stop::{StopReason, StopSwitch};
use crate::yard::{Order, Yard};

/// A panic of ours ends the machine rather than leaving it without a processor.
struct Guard<'a>(&'a StopSwitch);

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.stop(StopReason::Bug);
        }
    }
}

/// Runs guest code until the machine stops; in between, stands in the yard when a debugger calls.
pub(crate) fn run(
    mut processor: Processor,
    n: usize,
    stop: &Arc<StopSwitch>,
    yard: Option<&Yard>,
) -> Processor {
    let _guard = Guard(stop);
    processor.waker.bind(processor.dispatcher.engine().kicker());
    let mut order = Order::Run;
    if let Some(yard) = yard {
        (processor, order) = yard.enter(n, processor, stop);
    }
    loop {
        let end = match order {
            Order::Step => processor.dispatcher.step(&mut processor.view),
            Order::Run | Order::Stay => processor.dispatcher.run(&mut processor.view),
        };
        let event = match end {
            Stop::Requested => None,
            Stop::Debug(event) => Some(event),
            Stop::TripleFault(report) => {
                stop.stop(StopReason::TripleFault(report));
                break;
            }
            Stop::Failed(failure) => {
                stop.stop(StopReason::Failed(failure));
                break;
            }
        };
        match yard {
            Some(yard) if !stop.is_set() => (processor, order) = yard.stand(n, processor, event, stop),
            // Whoever asked has given the reason.
            _ => break,
        }
    }
    processor.waker.unbind();
    processor.dispatcher.engine_mut().dismiss();
    processor
}
