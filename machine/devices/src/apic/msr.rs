//! The local APIC's model-specific registers: IA32_APIC_BASE with its changes of mode, IA32_TSC_DEADLINE, and
//! the x2APIC's registers (SDM vol. 3, "Extended XAPIC (x2APIC)"). `None` is a general-protection exception.

use super::local::{base, lvt, svr};
use super::registers::{icr, number};
use super::{Destination, LocalApic};

/// IA32_APIC_BASE.
pub const MSR_APIC_BASE: u32 = 0x1b;
/// IA32_TSC_DEADLINE.
pub const MSR_TSC_DEADLINE: u32 = 0x6e0;
/// The first of the x2APIC's registers; there are 256.
pub const MSR_X2APIC: u32 = 0x800;

impl LocalApic {
    /// RDMSR.
    pub fn read_msr(&mut self, msr: u32) -> Option<u64> {
        match msr {
            MSR_APIC_BASE => Some(self.regs.base),
            MSR_TSC_DEADLINE => Some(self.tsc_deadline()),
            _ => self.read_x2apic(self.x2apic_number(msr)?),
        }
    }

    /// WRMSR; `tsc_offset` is what the vCPU's time-stamp counter is ahead of the VM's, modulo 2^64.
    pub fn write_msr(&mut self, msr: u32, value: u64, tsc_offset: u64) -> Option<()> {
        match msr {
            MSR_APIC_BASE => self.write_base(value),
            MSR_TSC_DEADLINE => {
                self.write_tsc_deadline(value, tsc_offset);
                Some(())
            }
            _ => self.write_x2apic(self.x2apic_number(msr)?, value),
        }
    }

    fn x2apic_number(&self, msr: u32) -> Option<u8> {
        let number = msr.checked_sub(MSR_X2APIC)?;
        u8::try_from(number).ok().filter(|_| self.is_x2apic())
    }

    fn write_base(&mut self, value: u64) -> Option<()> {
        let known = base::BSP | base::EXTD | base::EN | base::ADDRESS;
        if value & (!known | self.reserved_address) != 0 {
            return None;
        }
        let mode = |value: u64| (value & base::EN != 0, value & base::EXTD != 0);
        match (mode(self.regs.base), mode(value)) {
            // x2APIC is reached from xAPIC only, and left by disabling only.
            (_, (false, true)) | ((true, true), (true, false)) | ((false, _), (true, true)) => {
                return None;
            }
            (before, after) => {
                // Which is the boot processor was decided at reset.
                let fixed = self.regs.base & base::BSP;
                self.regs.base = value & !base::BSP | fixed;
                if before.0 && !after.0 {
                    self.clear();
                }
                if !before.1 && after.1 {
                    self.regs.icr &= icr::WRITABLE;
                }
                self.show_modes();
                self.update();
            }
        }
        Some(())
    }

    fn read_x2apic(&mut self, register: u8) -> Option<u64> {
        match register {
            number::ICR => Some(self.regs.icr),
            // Write-only.
            number::EOI | number::SELF_IPI => None,
            _ => self.read_register(register).map(u64::from),
        }
    }

    fn write_x2apic(&mut self, register: u8, value: u64) -> Option<()> {
        use number::*;
        let writable: u64 = match register {
            TPR | SELF_IPI => 0xff,
            EOI | ESR => 0,
            SVR => svr::WRITABLE.into(),
            ICR => 0xffff_ffff_0000_0000 | icr::WRITABLE | icr::READ_ONLY,
            LVT..=LVT_LAST => (lvt::WRITABLE[usize::from(register - LVT)] | lvt::READ_ONLY).into(),
            INITIAL_COUNT => 0xffff_ffff,
            DIVIDE => 0xb,
            _ => return None,
        };
        if value & !writable != 0 {
            return None;
        }
        match register {
            ICR => {
                self.regs.icr = value & !icr::READ_ONLY;
                let logical = value & icr::LOGICAL != 0;
                self.send(Destination::from_word(logical, (value >> 32) as u32));
            }
            SELF_IPI => self.send_self(value as u8),
            _ => {
                self.write_register(register, value as u32);
            }
        }
        Some(())
    }
}
