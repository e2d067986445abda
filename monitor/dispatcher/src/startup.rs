//! INIT and start-up inter-processor interrupts (SDM vol. 3 ch. 9.1 and 9.4).

use vcpu::{Activity, CpuState, Engine, Environment, Invalidation, Signal};
use x86::{Cr0, SegmentRegister};

/// IA32_APIC_BASE, whose bit 8 marks the bootstrap processor.
const APIC_BASE: u32 = 0x1b;
const BOOTSTRAP: u64 = 1 << 8;

/// Takes INIT or a start-up interrupt. NMIs are the dispatcher's.
pub(crate) fn signal(cpu: &mut CpuState, engine: &mut dyn Engine, signal: Signal, env: &mut dyn Environment) {
    match signal {
        Signal::Init => {
            init(cpu);
            let bootstrap = env.read_apic_msr(APIC_BASE).is_none_or(|base| base & BOOTSTRAP != 0);
            cpu.activity = if bootstrap { Activity::Running } else { Activity::WaitForStartUp };
            engine.invalidate(Invalidation::AllPages);
        }
        Signal::StartUp(page) if cpu.activity == Activity::WaitForStartUp => {
            let cs = cpu.segment_mut(SegmentRegister::Cs);
            cs.selector = u16::from(page) << 8;
            cs.base = u64::from(page) << 12;
            cpu.rip = 0;
            cpu.activity = Activity::Running;
        }
        // A processor that does not wait for it takes no notice.
        Signal::StartUp(_) | Signal::Nmi => {}
    }
}

/// The state after INIT: that of RESET, but for what SDM vol. 3 table 9-1 says INIT leaves.
fn init(cpu: &mut CpuState) {
    let reset = CpuState::reset();
    let caching = cpu.cr0 & (Cr0::CD | Cr0::NW);
    *cpu = CpuState {
        cr0: (reset.cr0 - Cr0::CD - Cr0::NW) | caching,
        msrs: cpu.msrs,
        xcr0: cpu.xcr0,
        tsc_offset: cpu.tsc_offset,
        fpu: cpu.fpu.clone(),
        ..reset
    };
}
