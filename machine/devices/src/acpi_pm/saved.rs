//! The power management block's saved state.

use savestate::{Invalid, NoOlder, Persist, Saved, require};
use serde::{Deserialize, Serialize};

use super::{AcpiPm, Registers, control, pm1};

/// See [`Registers`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcpiPmStateV1 {
    pm1_sts: u16,
    pm1_en: u16,
    pm1_cnt: u16,
    gpe0_sts: u16,
    gpe0_en: u16,
    smi: [u8; 2],
    /// In ticks of the power management timer.
    noted: u64,
}

impl Saved for AcpiPmStateV1 {
    const VERSION: u16 = 1;
    type Older = NoOlder;
}

impl Persist for AcpiPm {
    const KIND: &'static str = "acpi-pm";
    type State = AcpiPmStateV1;

    fn save(&self) -> AcpiPmStateV1 {
        let Self { clock: _, timer: _, sci: _, power_off: _, regs } = self;
        let &Registers { pm1_sts, pm1_en, pm1_cnt, gpe0_sts, gpe0_en, smi, noted } = regs;
        AcpiPmStateV1 { pm1_sts, pm1_en, pm1_cnt, gpe0_sts, gpe0_en, smi, noted }
    }

    fn check(&self, state: &AcpiPmStateV1) -> Result<(), Invalid> {
        require(state.pm1_sts & !pm1::STATUS == 0, "pm1_sts has reserved bits")?;
        require(state.pm1_en & !pm1::ENABLE == 0, "pm1_en has reserved bits")?;
        require(state.pm1_cnt & !control::KEPT == 0, "pm1_cnt has reserved bits")
    }

    fn commit(&mut self, state: AcpiPmStateV1) {
        let AcpiPmStateV1 { pm1_sts, pm1_en, pm1_cnt, gpe0_sts, gpe0_en, smi, noted } = state;
        self.regs = Registers { pm1_sts, pm1_en, pm1_cnt, gpe0_sts, gpe0_en, smi, noted };
        self.update();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::acpi_pm::tests::Bench;
    use crate::testing::{refuses, transplant};
    use crate::wiring::PortDevice;

    #[test]
    fn saved_with_an_event_pending_and_one_to_come() {
        let mut bench = Bench::new();
        bench.clock.advance(77_000_000);
        bench.pm.write(0x10, 2, 0x55f1);
        bench.pm.write(2, 2, 0x101);
        bench.pm.write(0xe, 2, 0x8001);
        bench.pm.raise_gpe(3);
        bench.pm.press_power_button();
        let mut other = Bench::new();
        other.clock.advance(77_000_000);
        transplant(&bench.pm, &mut other.pm);
        assert_eq!(other.pm.regs, bench.pm.regs);
        assert_eq!(other.timer.deadline(), bench.timer.deadline());
        assert!(other.sci.level() && other.timer.deadline().is_some());
    }

    #[test]
    fn hostile_states_are_refused_or_survived() {
        let mut bench = Bench::new();
        assert!(refuses(
            &bench.pm,
            &[|state| state.pm1_sts = 0x0002, |state| state.pm1_en = 0x8000, |state| state.pm1_cnt = 0x2000,]
        ));
        let mut state = bench.pm.save();
        (state.noted, state.pm1_en, state.pm1_cnt) = (u64::MAX, 1, 1);
        bench.pm.check(&state).unwrap();
        bench.pm.commit(state);
        assert!(bench.sci.level());
    }
}
