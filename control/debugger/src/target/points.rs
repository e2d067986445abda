//! Breakpoints and watchpoints. Both kinds of breakpoint are the engine's; neither writes to the guest.

use gdbstub::target::ext::breakpoints::{
    Breakpoints, HwBreakpoint, HwBreakpointOps, HwWatchpoint, HwWatchpointOps, SwBreakpoint, SwBreakpointOps,
    WatchKind,
};
use gdbstub::target::{TargetError, TargetResult};
use vcpu::Watchpoint;

use super::Machine;

/// Most of a kind there may be; each costs time at every stop.
const LIMIT: usize = 4096;
/// Most bytes of a watchpoint, and most watchpoints: each access looks at them all.
const WATCHED: u64 = 1 << 20;
const WATCHPOINTS: usize = 64;

impl Breakpoints for Machine {
    fn support_sw_breakpoint(&mut self) -> Option<SwBreakpointOps<'_, Self>> {
        Some(self)
    }

    fn support_hw_breakpoint(&mut self) -> Option<HwBreakpointOps<'_, Self>> {
        Some(self)
    }

    fn support_hw_watchpoint(&mut self) -> Option<HwWatchpointOps<'_, Self>> {
        Some(self)
    }
}

/// A breakpoint more, if there is room.
fn add(set: &mut std::collections::BTreeSet<u64>, address: u64) -> TargetResult<bool, Machine> {
    if set.len() >= LIMIT && !set.contains(&address) {
        return Err(TargetError::NonFatal);
    }
    set.insert(address);
    Ok(true)
}

impl SwBreakpoint for Machine {
    fn add_sw_breakpoint(&mut self, address: u64, _kind: usize) -> TargetResult<bool, Self> {
        add(&mut self.software, address)
    }

    fn remove_sw_breakpoint(&mut self, address: u64, _kind: usize) -> TargetResult<bool, Self> {
        Ok(self.software.remove(&address))
    }
}

impl HwBreakpoint for Machine {
    fn add_hw_breakpoint(&mut self, address: u64, _kind: usize) -> TargetResult<bool, Self> {
        add(&mut self.hardware, address)
    }

    fn remove_hw_breakpoint(&mut self, address: u64, _kind: usize) -> TargetResult<bool, Self> {
        Ok(self.hardware.remove(&address))
    }
}

fn watchpoint(linear: u64, len: u64, kind: WatchKind) -> Watchpoint {
    let (read, write) = match kind {
        WatchKind::Read => (true, false),
        WatchKind::Write => (false, true),
        WatchKind::ReadWrite => (true, true),
    };
    Watchpoint { linear, len, read, write }
}

impl HwWatchpoint for Machine {
    fn add_hw_watchpoint(&mut self, address: u64, len: u64, kind: WatchKind) -> TargetResult<bool, Self> {
        let entry = (watchpoint(address, len, kind), kind);
        if self.watchpoints.contains(&entry) {
            return Ok(true);
        }
        if !(1..=WATCHED).contains(&len) || self.watchpoints.len() >= WATCHPOINTS {
            return Err(TargetError::NonFatal);
        }
        self.watchpoints.push(entry);
        Ok(true)
    }

    fn remove_hw_watchpoint(&mut self, address: u64, len: u64, kind: WatchKind) -> TargetResult<bool, Self> {
        let before = self.watchpoints.len();
        self.watchpoints.retain(|entry| *entry != (watchpoint(address, len, kind), kind));
        Ok(self.watchpoints.len() < before)
    }
}
