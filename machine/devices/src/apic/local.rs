//! The local APIC: xAPIC and x2APIC (SDM vol. 3 ch. 11), the owner's side of it.
//!
//! Not modelled: the thermal, performance-counter and corrected-machine-check vectors have registers (the
//! last not even that) but nothing raises them; system management interrupts; remote read; focus processors;
//! suppression of EOI broadcasts (not offered in the version register); the APR and RRD of old.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use super::port::{ApicPort, LINT0, LINT1, attention, error, modes};
use super::timer::LocalTimer;
use super::{ApicBus, ApicSignal, DeliveryMode, TscTime};
use crate::legacy::pic::Pic;
use crate::wiring::{Timer, VmClock, lock};

/// Indices into the local vector table.
pub(super) mod lvt {
    pub const TIMER: usize = 0;
    // 1 is thermal, 2 performance counters: nothing raises them.
    pub const LINT0: usize = 3;
    pub const LINT1: usize = 4;
    pub const ERROR: usize = 5;
    pub const COUNT: usize = 6;

    /// What a write changes, by index.
    pub const WRITABLE: [u32; COUNT] = [0x7_00ff, 0x1_07ff, 0x1_07ff, 0x1_a7ff, 0x1_a7ff, 0x1_00ff];
    /// Bits that are only ever read: delivery status and remote IRR.
    pub const READ_ONLY: u32 = 0x5000;

    pub const MASK: u32 = 1 << 16;
    pub const TRIGGER_LEVEL: u32 = 1 << 15;
    pub const REMOTE_IRR: u32 = 1 << 14;
}

/// Spurious-interrupt vector register.
pub(super) mod svr {
    pub const ENABLE: u32 = 1 << 8;
    pub const WRITABLE: u32 = 0x3ff;
    pub const RESET: u32 = 0xff;
}

/// IA32_APIC_BASE.
pub(super) mod base {
    pub const BSP: u64 = 1 << 8;
    pub const EXTD: u64 = 1 << 10;
    pub const EN: u64 = 1 << 11;
    pub const ADDRESS: u64 = !0xfff;
    pub const RESET: u64 = 0xfee0_0000 | EN;
}

/// What a local APIC stands on.
pub struct LocalApicWiring {
    /// The VM's clock.
    pub clock: Arc<dyn VmClock>,
    /// How it relates to the time-stamp counter.
    pub tsc: Arc<dyn TscTime>,
    /// Its alarm, which calls [`ApicPort::timer_expired`].
    pub timer: Box<dyn Timer>,
    /// The 8259s that answer for external interrupts.
    pub pic: Option<Arc<Mutex<Pic>>>,
}

/// What the guest can change and nobody else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Registers {
    pub base: u64,
    pub tpr: u8,
    pub svr: u32,
    pub esr: u32,
    pub icr: u64,
    pub lvt: [u32; lvt::COUNT],
    pub isr: [u32; 8],
    pub timer: LocalTimer,
}

/// The owner's side; see [`super`].
pub struct LocalApic {
    // Configuration.
    /// Bits of an address that do not exist.
    pub(super) reserved_address: u64,
    // Wiring.
    pub(super) bus: Arc<ApicBus>,
    pub(super) port: Arc<ApicPort>,
    pub(super) wiring: LocalApicWiring,
    // Volatile state.
    pub(super) regs: Registers,
    /// What [`Self::interrupt_waits`] says if nothing has happened since; follows from the rest.
    pub(super) waits: bool,
}

impl LocalApic {
    /// The local APIC of vCPU number `cpu` after power-on; number 0 is the boot processor.
    /// `physical_bits` is the width of physical addresses as CPUID tells it.
    pub fn new(cpu: usize, physical_bits: u8, bus: Arc<ApicBus>, wiring: LocalApicWiring) -> Self {
        let boot = if cpu == 0 { base::BSP } else { 0 };
        let mut apic = Self {
            reserved_address: u64::MAX.checked_shl(physical_bits.into()).unwrap_or(0),
            port: bus.port(cpu),
            bus,
            wiring,
            regs: Registers::reset(base::RESET | boot),
            waits: false,
        };
        apic.reset();
        apic
    }

    /// Back to the state after power-on.
    pub fn reset(&mut self) {
        self.regs.base = base::RESET | self.regs.base & base::BSP;
        self.clear();
        self.port.attention.store(0, Ordering::Release);
        self.update();
    }

    /// INIT: as after power-on, but for the mode.
    fn init(&mut self) {
        self.clear();
        self.port.attention.fetch_and(!(attention::WORK | attention::EXT_INT), Ordering::AcqRel);
        self.update();
    }

    /// All registers but IA32_APIC_BASE as after power-on.
    pub(super) fn clear(&mut self) {
        self.wiring.timer.cancel();
        self.regs = Registers::reset(self.regs.base);
        for word in self.port.irr.iter().chain(&self.port.tmr) {
            word.store(0, Ordering::Relaxed);
        }
        self.port.errors.store(0, Ordering::Relaxed);
        self.port.ldr.store(0, Ordering::Relaxed);
        self.port.dfr.store(u32::MAX, Ordering::Relaxed);
        self.show_modes();
    }

    /// Its receiving side.
    pub fn port(&self) -> &Arc<ApicPort> {
        &self.port
    }

    /// Leaves it as a PC's firmware does for the kernel it starts: enabled, and on the boot processor the 8259
    /// at LINT0 and NMI at LINT1 ("virtual wire mode" of the MultiProcessor Specification).
    pub fn firmware_setup(&mut self) {
        self.regs.svr = svr::RESET | svr::ENABLE;
        if self.regs.base & base::BSP != 0 {
            self.regs.lvt[lvt::LINT0] = 0x700;
            self.regs.lvt[lvt::LINT1] = 0x400;
        }
        self.show_modes();
        self.update();
    }

    /// Tells the port which messages to accept.
    pub(super) fn show_modes(&self) {
        let id = self.port.id();
        let mut shown = 0;
        if self.is_enabled() {
            shown |= modes::ENABLED;
        }
        if self.regs.svr & svr::ENABLE != 0 {
            shown |= modes::SOFTWARE_ENABLED;
        }
        if self.is_x2apic() {
            shown |= modes::X2APIC;
            let ldr = (id >> 4) << 16 | 1 << (id & 0xf);
            self.port.ldr.store(ldr, Ordering::Relaxed);
        }
        self.port.modes.store(shown, Ordering::Release);
    }

    /// Enabled by IA32_APIC_BASE.
    pub fn is_enabled(&self) -> bool {
        self.regs.base & base::EN != 0
    }

    /// In x2APIC mode.
    pub fn is_x2apic(&self) -> bool {
        self.regs.base & base::EXTD != 0
    }

    /// Where its page of registers is, if it answers there at all. Lies before RAM and all other devices, for
    /// this vCPU only.
    pub fn page(&self) -> Option<u64> {
        (self.is_enabled() && !self.is_x2apic()).then_some(self.regs.base & base::ADDRESS)
    }

    /// CR8: the upper half of the task priority.
    pub fn task_priority(&self) -> u8 {
        self.regs.tpr >> 4
    }

    /// Writes CR8.
    pub fn set_task_priority(&mut self, priority: u8) {
        self.set_tpr(priority << 4);
    }

    pub(super) fn set_tpr(&mut self, tpr: u8) {
        self.regs.tpr = tpr;
        self.update();
    }

    /// Whether a maskable interrupt waits that the priorities let through.
    pub fn interrupt_waits(&mut self) -> bool {
        if self.port.attention.load(Ordering::Acquire) & attention::WORK != 0 {
            self.attend();
        }
        self.waits
    }

    /// The processor takes the interrupt: its vector.
    pub fn acknowledge(&mut self) -> Option<u8> {
        if !self.interrupt_waits() {
            return None;
        }
        if self.external_waits() {
            self.port.attention.fetch_and(!attention::EXT_INT, Ordering::AcqRel);
            let spurious = (self.regs.svr & 0xff) as u8;
            let vector = match &self.wiring.pic {
                Some(pic) => lock(pic).acknowledge(),
                None => spurious,
            };
            self.update();
            return Some(vector);
        }
        let vector = highest(|word| self.port.irr[word].load(Ordering::Acquire))?;
        let (word, bit) = (usize::from(vector / 32), 1 << (vector % 32));
        self.port.irr[word].fetch_and(!bit, Ordering::AcqRel);
        self.regs.isr[word] |= bit;
        self.update();
        Some(vector)
    }

    /// Whether there may be a signal to take.
    pub fn signal_waits(&self) -> bool {
        self.port.signal_waits()
    }

    /// Takes a waiting signal.
    pub fn take_signal(&mut self) -> Option<ApicSignal> {
        if !self.signal_waits() {
            return None;
        }
        // A pin may turn out to be an NMI.
        self.interrupt_waits();
        let take = |bit: u32| self.port.attention.fetch_and(!bit, Ordering::AcqRel) & bit != 0;
        if take(attention::INIT) {
            self.init();
            return Some(ApicSignal::Init);
        }
        if take(attention::START_UP) {
            let page = self.port.start_up.load(Ordering::Acquire);
            return Some(ApicSignal::StartUp(page as u8));
        }
        // In this order, so that none is lost that comes in between.
        (take(attention::NMI_AGAIN) || take(attention::NMI)).then_some(ApicSignal::Nmi)
    }

    /// Looks at what others have brought.
    fn attend(&mut self) {
        let work = self.port.attention.fetch_and(!attention::WORK, Ordering::AcqRel);
        if work & attention::TIMER != 0 {
            self.check_timer();
        }
        for (line, edge) in [(LINT0, attention::LINT0_EDGE), (LINT1, attention::LINT1_EDGE)] {
            self.check_pin(line, work & edge != 0);
        }
        // The vectors just raised may have been errors themselves.
        let news = self.port.attention.fetch_and(!attention::ERROR, Ordering::AcqRel);
        if (work | news) & attention::ERROR != 0 {
            self.raise(lvt::ERROR);
        }
        self.update();
    }

    /// Notes an error of the guest's own doing; only news raise the interrupt, so an error vector that is
    /// itself an error does not go round in circles.
    pub(super) fn error(&mut self, bits: u32) {
        if self.port.errors.fetch_or(bits, Ordering::AcqRel) & bits != bits {
            self.note(attention::ERROR);
        }
    }

    /// Raises the interrupt of a local vector that is an edge. What it adds to IRR is seen by the next
    /// [`Self::update`].
    pub(super) fn raise(&mut self, index: usize) {
        let entry = self.regs.lvt[index];
        if entry & lvt::MASK != 0 || !self.is_enabled() {
            return;
        }
        let mode = match index {
            lvt::TIMER | lvt::ERROR => DeliveryMode::Fixed,
            _ => DeliveryMode::of(entry),
        };
        match mode {
            DeliveryMode::Fixed => self.request_own(entry as u8, false),
            DeliveryMode::Nmi => self.note(attention::NMI),
            DeliveryMode::Init => self.note(attention::INIT),
            _ => {}
        }
    }

    /// Sets bits of `attention` for the vCPU itself, which is awake.
    fn note(&self, bits: u32) {
        self.port.attention.fetch_or(bits, Ordering::AcqRel);
    }

    fn request_own(&mut self, vector: u8, level: bool) {
        if vector < 16 {
            self.error(error::RECEIVE_ILLEGAL_VECTOR);
            return;
        }
        self.port.request(vector, level);
    }

    /// Applies a local interrupt pin to its vector.
    pub(super) fn check_pin(&mut self, line: u32, edge: bool) {
        let index = if line == LINT0 { lvt::LINT0 } else { lvt::LINT1 };
        if !self.is_enabled() {
            // The pins are INTR and NMI then.
            if line == LINT1 && edge {
                self.note(attention::NMI);
            }
            return;
        }
        let entry = self.regs.lvt[index];
        let fixed = DeliveryMode::of(entry) == DeliveryMode::Fixed;
        // Only LINT0 can be level-triggered; LINT1 always is an edge.
        if line == LINT0 && fixed && entry & lvt::TRIGGER_LEVEL != 0 {
            let asserted = self.port.pins.load(Ordering::Acquire) & 1 << LINT0 != 0;
            if asserted && entry & (lvt::MASK | lvt::REMOTE_IRR) == 0 {
                self.regs.lvt[index] |= lvt::REMOTE_IRR;
                self.request_own(entry as u8, true);
            }
        } else if edge {
            self.raise(index);
        }
    }

    /// Whether the 8259 asks, by its wire or by a message.
    fn external_waits(&self) -> bool {
        let wire = self.port.pins.load(Ordering::Acquire) & 1 << LINT0 != 0;
        if !self.is_enabled() {
            return wire;
        }
        let entry = self.regs.lvt[lvt::LINT0];
        let passes = entry & lvt::MASK == 0 && DeliveryMode::of(entry) == DeliveryMode::ExtInt;
        let message = self.port.attention.load(Ordering::Acquire) & attention::EXT_INT != 0;
        wire && passes || message
    }

    /// Processor priority register.
    pub(super) fn ppr(&self) -> u8 {
        let serving = highest(|word| self.regs.isr[word]).unwrap_or(0);
        if self.regs.tpr >> 4 >= serving >> 4 { self.regs.tpr } else { serving & 0xf0 }
    }

    /// Draws the conclusions of a change.
    pub(super) fn update(&mut self) {
        let ppr = self.ppr();
        self.port.priority.store(ppr.into(), Ordering::Relaxed);
        let requested = highest(|word| self.port.irr[word].load(Ordering::Acquire));
        self.waits = requested.is_some_and(|vector| vector >> 4 > ppr >> 4) || self.external_waits();
    }

    /// End of interrupt.
    pub(super) fn eoi(&mut self) {
        let Some(vector) = highest(|word| self.regs.isr[word]) else {
            return;
        };
        let (word, bit) = (usize::from(vector / 32), 1 << (vector % 32));
        self.regs.isr[word] &= !bit;
        if self.port.tmr[word].load(Ordering::Acquire) & bit != 0 {
            let entry = self.regs.lvt[lvt::LINT0];
            if entry & lvt::REMOTE_IRR != 0 && entry as u8 == vector {
                self.regs.lvt[lvt::LINT0] &= !lvt::REMOTE_IRR;
                self.check_pin(LINT0, false);
            }
            self.bus.broadcast_eoi(vector);
        }
        self.update();
    }
}

impl Registers {
    fn reset(base: u64) -> Self {
        Self {
            base,
            tpr: 0,
            svr: svr::RESET,
            esr: 0,
            icr: 0,
            lvt: [lvt::MASK; lvt::COUNT],
            isr: [0; 8],
            timer: LocalTimer::default(),
        }
    }
}

/// The highest vector in a register of 256 bits.
fn highest(word: impl Fn(usize) -> u32) -> Option<u8> {
    (0..8).rev().find_map(|index| {
        let bits = word(index);
        (bits != 0).then(|| (index as u32 * 32 + 31 - bits.leading_zeros()) as u8)
    })
}
