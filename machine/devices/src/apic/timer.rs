//! The local APIC's timer: one-shot, periodic and by TSC deadline (SDM vol. 3, "APIC Timer").
//!
//! Nothing ticks: the current count is computed from the clock when it is read, and an alarm is set for the
//! expiry only. The count runs on while the vector is masked, as it does on the processor.

use super::LocalApic;
use super::local::lvt;

/// The timer's input clock before the divider; what CPUID leaf 0x15 calls the core crystal clock.
pub const TIMER_HZ: u64 = 1_000_000_000;

/// How soon after an expiry a periodic timer's next alarm may be, in nanoseconds. A guest that asks for more
/// gets fewer interrupts, and cannot busy the host's timers.
const MIN_PERIOD: u64 = 100_000;

/// Bits 18-17 of the timer's vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    OneShot,
    Periodic,
    TscDeadline,
    Reserved,
}

impl Mode {
    fn of(entry: u32) -> Self {
        match entry >> 17 & 3 {
            0 => Self::OneShot,
            1 => Self::Periodic,
            2 => Self::TscDeadline,
            _ => Self::Reserved,
        }
    }
}

/// The timer's registers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct LocalTimer {
    /// Initial count register.
    pub initial: u32,
    /// Divide configuration register.
    pub divide: u32,
    /// IA32_TSC_DEADLINE.
    pub tsc_deadline: u64,
    /// When it expires, on the VM's clock; `None` while it is disarmed.
    pub deadline: Option<u64>,
}

impl LocalTimer {
    /// Nanoseconds per count.
    fn divisor(self) -> u64 {
        let setting = self.divide >> 1 & 4 | self.divide & 3;
        1 << ((setting + 1) & 7)
    }

    fn period(self) -> u64 {
        u64::from(self.initial) * self.divisor()
    }
}

impl LocalApic {
    fn timer_mode(&self) -> Mode {
        Mode::of(self.regs.lvt[lvt::TIMER])
    }

    /// Sets or cancels the alarm by the deadline.
    pub(super) fn arm(&self) {
        match self.regs.timer.deadline {
            Some(deadline) => self.wiring.timer.arm(deadline),
            None => self.wiring.timer.cancel(),
        }
    }

    /// Expires if it is time to.
    pub(super) fn check_timer(&mut self) {
        let now = self.wiring.clock.now();
        let Some(deadline) = self.regs.timer.deadline else {
            return;
        };
        if deadline > now {
            // The alarm belonged to an earlier setting, or is early.
            self.arm();
            return;
        }
        let timer = &mut self.regs.timer;
        timer.tsc_deadline = 0;
        timer.deadline = None;
        let period = timer.period();
        if Mode::of(self.regs.lvt[lvt::TIMER]) == Mode::Periodic && period > 0 {
            // Periods that went by unseen are one interrupt.
            let next = deadline + ((now - deadline) / period + 1) * period;
            timer.deadline = Some(next);
            self.wiring.timer.arm(next.max(now + MIN_PERIOD));
        }
        self.raise(lvt::TIMER);
    }

    /// Writes the timer's vector.
    pub(super) fn write_timer_entry(&mut self, entry: u32) {
        // What is over was so before.
        self.check_due();
        let before = self.timer_mode();
        let after = Mode::of(entry);
        self.regs.lvt[lvt::TIMER] = entry;
        let by_count = |mode| matches!(mode, Mode::OneShot | Mode::Periodic);
        if before != after && !(by_count(before) && by_count(after)) {
            self.regs.timer.tsc_deadline = 0;
            self.regs.timer.deadline = None;
            self.arm();
        }
    }

    /// Writes the initial count register, which starts the count.
    pub(super) fn write_initial_count(&mut self, value: u32) {
        if !matches!(self.timer_mode(), Mode::OneShot | Mode::Periodic) {
            return;
        }
        let timer = &mut self.regs.timer;
        timer.initial = value;
        timer.deadline = (value != 0).then(|| self.wiring.clock.now().saturating_add(timer.period()));
        self.arm();
    }

    /// Reads the current count register.
    pub(super) fn current_count(&mut self) -> u32 {
        let timer = self.regs.timer;
        let (Some(deadline), Mode::OneShot | Mode::Periodic) = (timer.deadline, self.timer_mode()) else {
            return 0;
        };
        let now = self.wiring.clock.now();
        let period = timer.period();
        let left = if deadline > now {
            deadline - now
        } else if self.timer_mode() == Mode::Periodic && period > 0 {
            // Expired, and nobody has looked yet.
            period - (now - deadline) % period
        } else {
            0
        };
        u32::try_from(left.div_ceil(timer.divisor())).unwrap_or(u32::MAX)
    }

    /// Writes the divide configuration register; the count goes on at the new pace.
    pub(super) fn write_divide(&mut self, value: u32) {
        let count = u64::from(self.current_count());
        let expired = self.regs.timer.deadline.is_some_and(|deadline| deadline <= self.wiring.clock.now());
        self.regs.timer.divide = value & 0xb;
        if self.timer_mode() != Mode::TscDeadline && self.regs.timer.deadline.is_some() && !expired {
            let left = count * self.regs.timer.divisor();
            self.regs.timer.deadline = Some(self.wiring.clock.now().saturating_add(left));
            self.arm();
        }
    }

    /// Reads IA32_TSC_DEADLINE.
    pub(super) fn tsc_deadline(&mut self) -> u64 {
        self.check_due();
        self.regs.timer.tsc_deadline
    }

    /// Expires now rather than at the alarm, which may be on its way.
    fn check_due(&mut self) {
        let due = self.regs.timer.deadline;
        if due.is_some_and(|deadline| deadline <= self.wiring.clock.now()) {
            self.check_timer();
            self.update();
        }
    }

    /// Writes IA32_TSC_DEADLINE; `tsc_offset` is what the vCPU's counter is ahead of the VM's.
    pub(super) fn write_tsc_deadline(&mut self, value: u64, tsc_offset: u64) {
        if self.timer_mode() != Mode::TscDeadline {
            return;
        }
        let timer = &mut self.regs.timer;
        timer.tsc_deadline = value;
        if value == 0 {
            timer.deadline = None;
            self.wiring.timer.cancel();
            return;
        }
        // The offset is signed: a counter that was set back runs behind. A deadline before the VM's counter
        // began has passed; one that it does not reach never comes.
        let vm_tsc = i128::from(value) - i128::from(tsc_offset as i64);
        let deadline = match u64::try_from(vm_tsc) {
            Ok(tsc) => self.wiring.tsc.deadline(tsc),
            Err(_) if vm_tsc < 0 => 0,
            Err(_) => u64::MAX,
        };
        timer.deadline = Some(deadline);
        if deadline <= self.wiring.clock.now() {
            self.check_timer();
            self.update();
        } else {
            self.wiring.timer.arm(deadline);
        }
    }
}
