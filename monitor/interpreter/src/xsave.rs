//! XSAVE, XSAVEOPT, XSAVEC and XRSTOR on the saved state of the vCPU (SDM vol. 1 ch. 13.7 to 13.11).
//!
//! An engine may run these natively; this is what they mean. Where the components lie is what CPUID leaf 0Dh
//! says to the guest, which is the host's own layout and so that of [`FpuState`], too.

use iced_x86::{Code, Instruction};
use vcpu::{Environment, FpuState};
use x86::{Cr0, Cr4, Exception, Mode};

use crate::memory::Access;
use crate::{Context, Routed};

/// Bytes of the legacy region, after which the header stands.
const LEGACY: usize = 512;
/// Bytes of legacy region and header, after which the other components stand.
const EXTENDED: usize = 576;
/// Offset of MXCSR; its mask follows.
const MXCSR: usize = 24;
/// The highest component there is room for.
const COMPONENTS: u32 = 10;
/// XCOMP_BV: the compacted format.
const COMPACTED: u64 = 1 << 63;

/// One stretch of an area: where it stands in the guest's, where in the vCPU's, how long.
#[derive(Clone, Copy)]
struct Stretch {
    component: u32,
    guest: usize,
    own: usize,
    size: usize,
}

/// Reads eight bytes of an area.
fn word(area: &[u8], at: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&area[at..at + 8]);
    u64::from_le_bytes(bytes)
}

impl<E: Environment + ?Sized> Context<'_, E> {
    /// What all of them check first; answers the linear address.
    fn xsave_area(&mut self, insn: &Instruction, access: Access) -> Result<u64, Exception> {
        if !self.cpu.cr4.contains(Cr4::OSXSAVE) {
            return Err(Exception::UD);
        }
        if self.cpu.cr0.contains(Cr0::TS) {
            return Err(Exception::NM);
        }
        let linear = self.memory_operand(insn, 0, EXTENDED, access)?;
        if linear % 64 != 0 {
            return Err(Exception::gp(0));
        }
        Ok(linear)
    }

    /// The requested components the guest has enabled.
    fn requested(&self) -> u64 {
        self.cpu.xcr0.bits() & self.edx_eax()
    }

    /// The stretches of some components, with `format` as XCOMP_BV.
    fn stretches(&self, components: u64, format: u64) -> impl Iterator<Item = Stretch> + use<E> {
        // Outside 64-bit mode there are eight vector registers, and the rest is left alone.
        let wide = self.mode() == Mode::Long64;
        let mut list = [None; COMPONENTS as usize + 1];
        let mut place = EXTENDED;
        for component in 0..COMPONENTS {
            let entry = &mut list[component as usize];
            let (guest, own, size) = match component {
                0 => (0, 0, 24),
                1 => (160, 160, if wide { 256 } else { 128 }),
                _ if (components | format) >> component & 1 == 0 => continue,
                _ => {
                    let [size, offset, flags, _] = self.cpuid(0xd, component);
                    let (size, own) = (size as usize, offset as usize);
                    if format & COMPACTED != 0 && format >> component & 1 == 0 {
                        continue;
                    }
                    if flags & 2 != 0 {
                        place = place.next_multiple_of(64);
                    }
                    let guest = if format & COMPACTED != 0 { place } else { own };
                    place += size;
                    let used = match component {
                        2 | 6 if !wide => size / 2,
                        7 if !wide => 0,
                        _ => size,
                    };
                    (guest, own, used)
                }
            };
            let fits = own + size <= FpuState::SIZE && guest + size <= FpuState::SIZE;
            if components >> component & 1 != 0 && fits {
                *entry = Some(Stretch { component, guest, own, size });
            }
        }
        if components & 1 != 0 {
            // The x87 registers are the second stretch of component 0, after MXCSR.
            list[COMPONENTS as usize] = Some(Stretch { component: 0, guest: 32, own: 32, size: 128 });
        }
        list.into_iter().flatten()
    }

    /// XSAVE, XSAVEOPT and XSAVEC.
    pub(crate) fn xsave(&mut self, insn: &Instruction) -> Routed {
        let linear = self.xsave_area(insn, Access::Write)?;
        let compact = matches!(insn.code(), Code::Xsavec_mem | Code::Xsavec64_mem);
        let requested = self.requested();
        let in_use = word(&self.cpu.fpu.area, LEGACY);
        let level = self.level();
        let (written, header, format) = if compact {
            let format = requested | COMPACTED;
            (requested & in_use, (requested & in_use, format), format)
        } else {
            let old = self.read_value(linear + LEGACY as u64, 8, level)?;
            (requested, (old & !requested | requested & in_use, 0), 0)
        };
        let end = self.stretches(requested, format).map(|s| s.guest + s.size).max();
        self.probe_write(linear, end.unwrap_or(0).max(EXTENDED), level)?;
        for stretch in self.stretches(written, format) {
            let mut bytes = [0; FpuState::SIZE];
            let bytes = &mut bytes[..stretch.size];
            if in_use >> stretch.component & 1 != 0 {
                bytes.copy_from_slice(&self.cpu.fpu.area[stretch.own..stretch.own + stretch.size]);
            } else if stretch.component == 0 && stretch.guest == 0 {
                bytes.copy_from_slice(&FpuState::default().area[..24]);
            }
            if stretch.component == 0 && stretch.guest == 0 && !is_wide(insn) {
                narrow_pointers(bytes);
            }
            self.write_bytes(linear + stretch.guest as u64, bytes, level)?;
        }
        let with_mxcsr = if compact { written & 0b10 } else { requested & 0b110 };
        if with_mxcsr != 0 {
            let mut mxcsr = [0; 8];
            mxcsr.copy_from_slice(&self.cpu.fpu.area[MXCSR..MXCSR + 8]);
            self.write_bytes(linear + MXCSR as u64, &mxcsr, level)?;
        }
        self.write_value(linear + LEGACY as u64, 8, header.0, level)?;
        if compact {
            self.write_value(linear + LEGACY as u64 + 8, 8, header.1, level)?;
        }
        self.done(insn)
    }

    /// XRSTOR.
    pub(crate) fn xrstor(&mut self, insn: &Instruction) -> Routed {
        let linear = self.xsave_area(insn, Access::Read)?;
        let requested = self.requested();
        let level = self.level();
        let mut area = [0; FpuState::SIZE];
        self.read_bytes(linear, &mut area[..EXTENDED], level)?;
        let xcr0 = self.cpu.xcr0.bits();
        let (present, format) = (word(&area, LEGACY), word(&area, LEGACY + 8));
        let compact = format & COMPACTED != 0;
        let reserved = if compact {
            format & !(xcr0 | COMPACTED) | present & !format | word(&area, LEGACY + 16)
        } else {
            format | present & !xcr0 | word(&area, LEGACY + 16)
        };
        if reserved != 0 || (compact && self.cpuid(0xd, 1)[0] & 2 == 0) {
            return Err(Exception::gp(0));
        }
        let loaded = requested & present;
        let end = self.stretches(loaded, format).map(|s| s.guest + s.size).max().unwrap_or(0);
        if end > EXTENDED {
            let rest = linear + EXTENDED as u64;
            self.read_bytes(rest, &mut area[EXTENDED..end], level)?;
        }
        // Compacted, MXCSR belongs to the SSE component; else it is loaded whatever XSTATE_BV says.
        let mxcsr = match (compact, requested & 0b110, loaded & 0b10) {
            (_, 0, _) => None,
            (true, _, 0) => (requested & 0b10 != 0).then_some(FpuState::MXCSR_RESET),
            _ => Some(word(&area, MXCSR) as u32),
        };
        if mxcsr.is_some_and(|value| value & !self.mxcsr_mask() != 0) {
            return Err(Exception::gp(0));
        }
        if !is_wide(insn) {
            narrow_pointers(&mut area[..24]);
        }
        let initial = FpuState::default();
        for stretch in self.stretches(requested, format) {
            // A component absent from a compacted area has no place there and starts over as well.
            let (from, at) = if loaded >> stretch.component & 1 != 0 {
                (&area, stretch.guest)
            } else {
                (&initial.area, if stretch.component == 0 { stretch.own } else { EXTENDED })
            };
            let from = &from[at.min(FpuState::SIZE - stretch.size)..][..stretch.size];
            self.cpu.fpu.area[stretch.own..stretch.own + stretch.size].copy_from_slice(from);
        }
        for stretch in self.stretches(requested & !format & if compact { !3 } else { 0 }, 0) {
            self.cpu.fpu.area[stretch.own..stretch.own + stretch.size].fill(0);
        }
        if let Some(value) = mxcsr {
            self.cpu.fpu.area[MXCSR..MXCSR + 4].copy_from_slice(&value.to_le_bytes());
        }
        let in_use = word(&self.cpu.fpu.area, LEGACY) & !requested | loaded;
        self.cpu.fpu.area[LEGACY..LEGACY + 8].copy_from_slice(&in_use.to_le_bytes());
        self.done(insn)
    }

    /// The MXCSR bits the processor has.
    fn mxcsr_mask(&self) -> u32 {
        match (word(&self.cpu.fpu.area, MXCSR) >> 32) as u32 {
            0 => 0xffbf,
            mask => mask,
        }
    }
}

/// Whether instruction and operand pointers of the x87 have 64 bits.
fn is_wide(insn: &Instruction) -> bool {
    matches!(insn.code(), Code::Xsave64_mem | Code::Xsaveopt64_mem | Code::Xsavec64_mem | Code::Xrstor64_mem)
}

/// Cuts them to 32 bits; the code and data selectors beside them are not kept (deprecated: CPUID leaf 7, EBX
/// bit 13).
fn narrow_pointers(legacy: &mut [u8]) {
    legacy[12..16].fill(0);
    legacy[20..24].fill(0);
}
