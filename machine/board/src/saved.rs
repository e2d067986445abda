//! A machine's state but for its RAM, which travels by each carrier's own ways: one list of everything that has
//! any, walked by saving and restoring alike.

use savestate::{ReadError, SaveError, Sections, Unit, Writer};
use vcpu::Invalidation;

use crate::clock::ClockUnit;
use crate::machine::Machine;

impl Machine {
    /// Calls `walk` with every unit and its number among its kind, in the order of restoring: time first, which
    /// the chips' alarms stand on; chips; local APICs, which overrule what lines the chips drove; vCPUs.
    fn with_units<R>(&mut self, walk: impl FnOnce(Vec<(u32, &mut dyn Unit)>) -> R) -> R {
        let mut clock = ClockUnit(self.clock.clone());
        let mut chips = self.chips.units();
        let mut units: Vec<(u32, &mut dyn Unit)> = vec![(0, &mut clock)];
        for (number, chip) in &mut chips {
            units.push((*number, &mut **chip));
        }
        let mut vcpus: Vec<(u32, &mut dyn Unit)> = Vec::new();
        for (number, processor) in (0..).zip(&mut self.processors) {
            units.push((number, processor.view.apic_mut()));
            vcpus.push((number, processor.dispatcher.cpu_mut()));
        }
        units.extend(vcpus);
        walk(units)
    }

    /// The state of a machine that does not run.
    pub fn save(&mut self) -> Result<Vec<u8>, SaveError> {
        self.with_units(|units| {
            let mut writer = Writer::new();
            for (number, unit) in units {
                writer.add(number, unit)?;
            }
            Ok(writer.finish())
        })
    }

    /// Takes over a state saved by a machine of the same configuration; its RAM is to be there already. The
    /// machine does not run yet. On an error nothing has changed.
    pub fn restore(&mut self, file: &[u8]) -> Result<(), ReadError> {
        self.with_units(|units| {
            Sections::parse(file)?.check(units)?.commit();
            Ok(())
        })?;
        for function in &self.chips.functions {
            function.resume();
        }
        let shift = self.clock.tsc_shift();
        for processor in &mut self.processors {
            let cpu = processor.dispatcher.cpu_mut();
            cpu.tsc_offset = cpu.tsc_offset.wrapping_add(shift);
            processor.dispatcher.engine_mut().invalidate(Invalidation::Everything);
        }
        Ok(())
    }
}
