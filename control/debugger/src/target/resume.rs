//! Letting vCPUs go: to run, to run one instruction, or not at all.

use std::convert::Infallible;

use board::yard::Order;
use gdbstub::common::{Signal, Tid};
use gdbstub::target::ext::base::multithread::{
    MultiThreadResume, MultiThreadSchedulerLocking, MultiThreadSchedulerLockingOps, MultiThreadSingleStep,
    MultiThreadSingleStepOps,
};

use super::Machine;

impl Machine {
    fn order(&mut self, tid: Tid, order: Order) {
        // A thread that does not exist has no order.
        if let Some(slot) = self.orders.get_mut(tid.get() - 1) {
            *slot = Some(order);
        }
    }
}

impl MultiThreadResume for Machine {
    fn resume(&mut self) -> Result<(), Infallible> {
        self.hand_over();
        let orders: Vec<_> = self.orders.iter().map(|order| order.unwrap_or_default()).collect();
        self.yard.open(&orders);
        Ok(())
    }

    fn clear_resume_actions(&mut self) -> Result<(), Infallible> {
        self.orders = vec![None; self.yard.processors()];
        Ok(())
    }

    // A signal means nothing to a processor.
    fn set_resume_action_continue(&mut self, tid: Tid, _signal: Option<Signal>) -> Result<(), Infallible> {
        self.order(tid, Order::Run);
        Ok(())
    }

    fn support_single_step(&mut self) -> Option<MultiThreadSingleStepOps<'_, Self>> {
        Some(self)
    }

    fn support_scheduler_locking(&mut self) -> Option<MultiThreadSchedulerLockingOps<'_, Self>> {
        Some(self)
    }
}

impl MultiThreadSingleStep for Machine {
    fn set_resume_action_step(&mut self, tid: Tid, _signal: Option<Signal>) -> Result<(), Infallible> {
        self.order(tid, Order::Step);
        Ok(())
    }
}

impl MultiThreadSchedulerLocking for Machine {
    fn set_resume_action_scheduler_lock(&mut self) -> Result<(), Infallible> {
        // It comes last.
        self.orders.iter_mut().for_each(|order| *order = Some(order.unwrap_or(Order::Stay)));
        Ok(())
    }
}
