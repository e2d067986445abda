//! How a vCPU is looked at while it runs: visits, samples, and a tracer that comes and goes.

use std::sync::Arc;

use vcpu::{Environment, Sighting};

use crate::{Desk, Dispatcher, Tracer};

impl Dispatcher {
    /// Where other threads leave word for this vCPU.
    pub fn desk(&self) -> Arc<Desk> {
        self.desk.clone()
    }

    /// What is counted by place, beginning now if nobody watched.
    pub fn trace(&mut self) -> &mut Tracer {
        self.tracer.get_or_insert_default()
    }

    /// Stops counting by place, and forgets.
    pub fn stop_tracing(&mut self) {
        self.tracer = None;
        self.desk.set_idle(false);
    }

    /// Takes who waits at the desk.
    #[cold]
    pub(crate) fn receive(&mut self, env: &mut dyn Environment) {
        self.over = None;
        let (visits, ticks) = self.desk.take();
        for visit in visits {
            visit(self, env);
        }
        // Taken in any case: an old one must not count for a new tick.
        let sighted = self.engine_mut().sighted();
        if ticks > 0
            && let Some(mut tracer) = self.tracer.take()
        {
            tracer.sample(ticks, sighted.unwrap_or(Sighting::Monitor), self.cpu(), env);
            self.tracer = Some(tracer);
        }
    }

    /// Has the vCPU wait.
    pub(crate) fn idle(&mut self, env: &mut dyn Environment, wait: impl FnOnce(&mut dyn Environment)) {
        let traced = self.tracer.is_some();
        if traced {
            self.desk.set_idle(true);
        }
        self.over = None;
        let began = env.tsc();
        wait(env);
        self.statistics.idle_cycles += env.tsc().wrapping_sub(began);
        if traced {
            self.desk.set_idle(false);
        }
    }
}
