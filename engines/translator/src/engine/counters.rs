//! What an engine counts of its own work.

use super::Translator;

/// How often guest code was left for what, and what was forgotten.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub missed_jumps: u64,
    pub slow_accesses: u64,
    pub slow_faults: u64,
    pub slow_devices: u64,
    pub slow_executions: u64,
    pub links: u64,
    pub callouts: u64,
    pub translations: u64,
    /// Of a page, of an address space, of everything.
    pub flushes: [u64; 3],
}

impl Translator {
    /// All that has been counted, each with what it is.
    pub(super) fn counted(&self) -> Vec<(&'static str, u64)> {
        let Counters {
            missed_jumps, slow_accesses, slow_faults, slow_devices, slow_executions, links, ..
        } = self.counters;
        let Counters { callouts, translations, flushes, .. } = self.counters;
        let (size, windows, direct) = (self.cache.size(), self.tlb.windows.tally(), self.tlb.direct.tally);
        vec![
            ("blocks translated", translations),
            ("instructions translated", size.instructions),
            ("bytes of translated code in the cache", size.bytes),
            ("times a part of the cache was emptied", size.emptied),
            ("direct jumps linked", links),
            ("indirect jumps that found no block", missed_jumps),
            ("callouts to the monitor", callouts),
            ("accesses that missed the software TLB", slow_accesses),
            ("pages that generated code has looked up", self.tlb.walked(&self.cache.region)),
            ("accesses that fault in the guest", slow_faults),
            ("accesses to memory of devices", slow_devices),
            ("instructions run apart from their block", slow_executions),
            ("pages mapped into windows", windows.mapped),
            ("pages taken out of windows", windows.unmapped),
            ("accesses to what is not mapped in a window", windows.faults),
            ("address spaces run directly", direct.promoted),
            ("of them given up", direct.demoted),
            ("bursts of direct execution", direct.bursts),
            ("cycles in them", direct.cycles),
            ("bursts that met what was not mapped", direct.misses),
            ("times a guest that waits gave its processor away", self.spin.yields),
            ("flushes of a page", flushes[0]),
            ("flushes of an address space", flushes[1]),
            ("flushes of all pages", flushes[2]),
        ]
    }
}
