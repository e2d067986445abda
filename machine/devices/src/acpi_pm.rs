//! ACPI fixed hardware: the PM1a event and control blocks, the power management timer, one general-purpose
//! event block and the command port that switches from legacy to ACPI mode (ACPI specification 6.5, ch. 4.8).
//!
//! The tables that tell the guest of it are the board's; the layout they need is here.
//!
//! The power button is the fixed one (ch. 4.8.2.2.1): its press is an event like the others, and what comes of it is
//! the guest's to decide. Holding it for four seconds, which would override the guest, is not needed: whoever
//! has the button can end the machine.
//!
//! Not modelled: sleep states other than soft-off, the sleep button, wake-up, system management interrupts
//! (events in legacy mode go unnoticed), the global lock.

use std::sync::Arc;

use crate::wiring::{IrqLine, Notify, PortDevice, Timer, VmClock};

/// PM1a event block: status and enable, 2 bytes each.
pub const EVENT_BLOCK: u16 = 0x00;
/// Its length.
pub const EVENT_BLOCK_LENGTH: u8 = 4;
/// PM1a control block.
pub const CONTROL_BLOCK: u16 = 0x04;
/// Its length.
pub const CONTROL_BLOCK_LENGTH: u8 = 2;
/// Power management timer: 32 bits, so FADT's TMR_VAL_EXT is to be set.
pub const TIMER_BLOCK: u16 = 0x08;
/// Its length.
pub const TIMER_BLOCK_LENGTH: u8 = 4;
/// General-purpose events 0 to 15: status and enable, 2 bytes each.
pub const GPE0_BLOCK: u16 = 0x0c;
/// Its length.
pub const GPE0_BLOCK_LENGTH: u8 = 4;
/// All of the above.
pub const BLOCKS_LENGTH: u16 = 0x10;
/// SMI command port and, after it, the status port that goes with it: 2 bytes, elsewhere in the port space.
pub const SMI_COMMAND: u16 = 0x10;

/// Written to the SMI command port: ACPI mode on.
pub const ACPI_ENABLE: u8 = 0xf1;
/// Written to the SMI command port: ACPI mode off.
pub const ACPI_DISABLE: u8 = 0xf0;
/// SLP_TYP of soft-off, for the _S5 object.
pub const SLP_TYP_S5: u8 = 5;

/// The timer's pace is 315/88 MHz = 3.579545 MHz.
const TICKS: u128 = 315;
/// Nanoseconds in which there are that many.
const NANOSECONDS: u128 = 88_000;

/// PM1 status and enable registers.
mod pm1 {
    pub const TMR: u16 = 1 << 0;
    pub const PWRBTN: u16 = 1 << 8;
    /// Bits of the status register that can be cleared.
    pub const STATUS: u16 = 0x8731;
    /// Bits of the enable register.
    pub const ENABLE: u16 = 0x0721;
}

/// PM1 control register.
mod control {
    pub const SCI_EN: u16 = 1 << 0;
    pub const SLP_EN: u16 = 1 << 13;
    pub const SLP_TYP_SHIFT: u32 = 10;
    /// What reads back: SCI_EN, BM_RLD, SLP_TYP.
    pub const KEPT: u16 = 0x1c03;
}

/// What the guest can change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Registers {
    pm1_sts: u16,
    pm1_en: u16,
    pm1_cnt: u16,
    gpe0_sts: u16,
    gpe0_en: u16,
    /// The last command and its companion byte.
    smi: [u8; 2],
    /// Up to when the timer's carries have been noted, in ticks.
    noted: u64,
}

/// The chip. Its registers are at the offsets above.
pub struct AcpiPm {
    // Wiring.
    clock: Arc<dyn VmClock>,
    timer: Box<dyn Timer>,
    sci: IrqLine,
    power_off: Notify,
    // Volatile state.
    regs: Registers,
}

fn ticks(ns: u64) -> u64 {
    (u128::from(ns) * TICKS / NANOSECONDS) as u64
}

fn nanoseconds(tick: u64) -> u64 {
    u64::try_from((u128::from(tick) * NANOSECONDS).div_ceil(TICKS)).unwrap_or(u64::MAX)
}

impl AcpiPm {
    /// The chip in legacy mode. `power_off` is called when the guest turns the machine off.
    pub fn new(clock: Arc<dyn VmClock>, timer: Box<dyn Timer>, sci: IrqLine, power_off: Notify) -> Self {
        let noted = ticks(clock.now());
        Self { clock, timer, sci, power_off, regs: Registers { noted, ..Registers::default() } }
    }

    /// Back to the state after power-on; the timer runs on.
    pub fn reset(&mut self) {
        self.regs = Registers { noted: self.regs.noted, ..Registers::default() };
        self.update();
    }

    /// The alarm has gone off.
    pub fn fire(&mut self) {
        self.update();
    }

    /// Somebody presses the power button, briefly. Says whether the guest has asked to be told of that: if not,
    /// the press is noted, and it learns of it should it ask later.
    pub fn press_power_button(&mut self) -> bool {
        self.regs.pm1_sts |= pm1::PWRBTN;
        self.update();
        self.regs.pm1_cnt & control::SCI_EN != 0 && self.regs.pm1_en & pm1::PWRBTN != 0
    }

    /// General-purpose event `number`, 0 to 15, happens.
    pub fn raise_gpe(&mut self, number: u8) {
        self.regs.gpe0_sts |= 1 << (number & 15);
        self.update();
    }

    /// Notes a carry of the timer, drives SCI, and sets the alarm for the next carry if it is to interrupt.
    fn update(&mut self) {
        let now = ticks(self.clock.now());
        let regs = &mut self.regs;
        // The status bit rises whenever the counter's top bit changes.
        if now >> 31 != regs.noted >> 31 {
            regs.pm1_sts |= pm1::TMR;
        }
        regs.noted = now;
        let pending = regs.pm1_sts & regs.pm1_en != 0 || regs.gpe0_sts & regs.gpe0_en != 0;
        let acpi = regs.pm1_cnt & control::SCI_EN != 0;
        self.sci.set(acpi && pending);
        if acpi && regs.pm1_en & !regs.pm1_sts & pm1::TMR != 0 {
            self.timer.arm(nanoseconds((now >> 31).saturating_add(1) << 31));
        } else {
            self.timer.cancel();
        }
    }

    fn write_control(&mut self, value: u16) {
        self.regs.pm1_cnt = value & control::KEPT;
        let sleep_type = (value >> control::SLP_TYP_SHIFT & 7) as u8;
        if value & control::SLP_EN != 0 && sleep_type == SLP_TYP_S5 {
            (self.power_off)();
        }
    }

    fn write_smi_command(&mut self, command: u8) {
        self.regs.smi[0] = command;
        match command {
            ACPI_ENABLE => self.regs.pm1_cnt |= control::SCI_EN,
            ACPI_DISABLE => self.regs.pm1_cnt &= !control::SCI_EN,
            _ => {}
        }
    }

    /// The aligned doubleword of registers that `offset` lies in.
    fn doubleword(&self, offset: u16) -> u32 {
        let pair = |low: u16, high: u16| u32::from(low) | u32::from(high) << 16;
        let regs = &self.regs;
        match offset & !3 {
            EVENT_BLOCK => pair(regs.pm1_sts, regs.pm1_en),
            CONTROL_BLOCK => regs.pm1_cnt.into(),
            TIMER_BLOCK => ticks(self.clock.now()) as u32,
            GPE0_BLOCK => pair(regs.gpe0_sts, regs.gpe0_en),
            SMI_COMMAND => pair(u16::from_le_bytes(regs.smi), 0xffff),
            _ => u32::MAX,
        }
    }

    /// Writes the 16-bit register at `offset`, where `mask` says which of its bits were given.
    fn write_word(&mut self, offset: u16, value: u16, mask: u16) {
        let regs = &mut self.regs;
        let merge = |old: u16| old & !mask | value & mask;
        match offset {
            // Status bits are cleared by a one.
            0x00 => regs.pm1_sts &= !(value & mask & pm1::STATUS),
            0x02 => regs.pm1_en = merge(regs.pm1_en) & pm1::ENABLE,
            0x04 => {
                let value = merge(regs.pm1_cnt);
                self.write_control(value);
            }
            0x0c => regs.gpe0_sts &= !(value & mask),
            0x0e => regs.gpe0_en = merge(regs.gpe0_en),
            0x10 => {
                let [command, status] = value.to_le_bytes();
                if mask & 0xff00 != 0 {
                    regs.smi[1] = status;
                }
                if mask & 0x00ff != 0 {
                    self.write_smi_command(command);
                }
            }
            _ => {}
        }
    }
}

impl PortDevice for AcpiPm {
    fn width(&self) -> u8 {
        4
    }

    fn read(&mut self, offset: u16, _size: u8) -> u32 {
        if offset & !3 == EVENT_BLOCK {
            self.update();
        }
        self.doubleword(offset) >> (8 * (offset & 3))
    }

    fn write(&mut self, offset: u16, size: u8, value: u32) {
        self.update();
        // As one or two registers of 16 bits; accesses are aligned.
        let shift = 8 * u32::from(offset & 1);
        let ones = u32::MAX >> (32 - 8 * u32::from(size.clamp(1, 4)));
        let (value, mask) = (u64::from(value) << shift, u64::from(ones) << shift);
        for half in 0..2 {
            let (value, mask) = ((value >> (16 * half)) as u16, (mask >> (16 * half)) as u16);
            if mask != 0 {
                self.write_word((offset & !1).wrapping_add(2 * half), value, mask);
            }
        }
        self.update();
    }
}

mod saved;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Calls, FakeClock, FakeTimer, Probe};

    pub(super) struct Bench {
        pub clock: Arc<FakeClock>,
        pub timer: FakeTimer,
        pub sci: Probe,
        pub off: Calls,
        pub pm: AcpiPm,
    }

    impl Bench {
        pub fn new() -> Self {
            let clock = FakeClock::new();
            let (timer, sci, off) = (FakeTimer::default(), Probe::default(), Calls::default());
            let pm = AcpiPm::new(clock.clone(), timer.boxed(), sci.line(), off.notify());
            Self { clock, timer, sci, off, pm }
        }

        /// All but the timer, by words.
        fn dump(&mut self) -> [u16; 6] {
            [0, 2, 4, 0xc, 0xe, 0x10].map(|offset| self.pm.read(offset, 2) as u16)
        }
    }

    #[test]
    fn registers_keep_their_writable_bits() {
        let mut bench = Bench::new();
        assert_eq!(bench.dump(), [0; 6]);
        for offset in (0..0x10).step_by(4) {
            bench.pm.write(offset, 4, u32::MAX);
        }
        bench.pm.write(0x10, 2, 0x12ab);
        assert_eq!(bench.dump(), [0, 0x0721, 0x1c03, 0, 0xffff, 0x12ab]);
        bench.pm.write(3, 1, 0);
        bench.pm.write(0x0f, 1, 0x55);
        bench.pm.write(4, 1, 1);
        assert_eq!(bench.dump(), [0, 0x0021, 0x1c01, 0, 0x55ff, 0x12ab]);
        assert_eq!(bench.off.take(), 0, "sleep type 7 is none");
        bench.pm.reset();
        assert_eq!(bench.dump(), [0; 6]);
    }

    #[test]
    fn timer_counts() {
        let mut bench = Bench::new();
        bench.clock.advance(1_000_000_000);
        assert_eq!(bench.pm.read(TIMER_BLOCK, 4), 3_579_545);
        assert_eq!(bench.pm.read(TIMER_BLOCK + 1, 1) & 0xff, 3_579_545 >> 8 & 0xff);
        bench.clock.advance(nanoseconds(0x1_0000_0005) - 1_000_000_000);
        assert_eq!(bench.pm.read(TIMER_BLOCK, 4), 5);
    }

    #[test]
    fn timer_carry_interrupts() {
        let mut bench = Bench::new();
        bench.pm.write(0x10, 1, ACPI_ENABLE.into());
        bench.pm.write(2, 2, 1);
        let carry = nanoseconds(1 << 31);
        assert_eq!(bench.timer.deadline(), Some(carry));
        bench.clock.advance(carry - 1);
        bench.pm.fire();
        assert!(!bench.sci.level());
        bench.clock.advance(1);
        bench.pm.fire();
        assert_eq!((bench.sci.level(), bench.timer.deadline()), (true, None));
        bench.pm.write(0, 2, 1);
        assert_eq!((bench.sci.level(), bench.timer.deadline()), (false, Some(nanoseconds(2 << 31))));
    }

    #[test]
    fn power_button() {
        let mut bench = Bench::new();
        assert!(!bench.pm.press_power_button());
        bench.pm.write(2, 2, 0x100);
        assert!(!bench.pm.press_power_button());
        assert!(!bench.sci.level(), "legacy mode");
        bench.pm.write(0x10, 1, ACPI_ENABLE.into());
        assert_eq!((bench.sci.level(), bench.pm.read(4, 2)), (true, 1));
        assert!(bench.pm.press_power_button());
        bench.pm.write(0, 2, 0xffff & !0x100);
        assert!(bench.sci.level());
        bench.pm.write(1, 1, 0x01);
        assert_eq!((bench.sci.level(), bench.dump()[0]), (false, 0));
        bench.pm.write(0x10, 1, ACPI_DISABLE.into());
        assert_eq!(bench.pm.read(4, 2), 0);
    }

    #[test]
    fn general_purpose_events() {
        let mut bench = Bench::new();
        bench.pm.write(0x10, 1, ACPI_ENABLE.into());
        bench.pm.raise_gpe(9);
        assert!(!bench.sci.level());
        bench.pm.write(0xf, 1, 0x02);
        assert_eq!((bench.sci.level(), bench.pm.read(0xc, 4)), (true, 0x0200_0200));
        bench.pm.write(0xd, 1, 0x02);
        assert_eq!((bench.sci.level(), bench.pm.read(0xc, 4)), (false, 0x0200_0000));
    }

    #[test]
    fn soft_off() {
        let mut bench = Bench::new();
        bench.pm.write(4, 2, 0x1400);
        assert_eq!(bench.off.take(), 0);
        bench.pm.write(4, 2, 0x3401);
        assert_eq!((bench.off.take(), bench.pm.read(4, 2)), (1, 0x1401));
    }
}
