//! Descriptors fetched from the GDT and LDT, and loads of the segment registers (SDM vol. 3 ch. 3.4 and 5).

use vcpu::{CpuState, Environment};
use x86::descriptor::{self, Selector};
use x86::{Exception, Mode, Segment, SegmentRegister, Vector};

use crate::Context;
use crate::memory::Level;
use crate::segment_check::long_mode;

/// Selector bits that are not the requested privilege level.
pub(crate) const fn without_rpl(selector: u16) -> u32 {
    Selector(selector).error_code()
}

/// Whether a selector is null, whatever its RPL.
pub(crate) const fn is_null(selector: u16) -> bool {
    Selector(selector).is_null()
}

/// Requested privilege level.
pub(crate) const fn rpl(selector: u16) -> u8 {
    Selector(selector).rpl()
}

/// A descriptor's first eight bytes and where they lie.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Descriptor {
    /// As memory holds it.
    pub raw: u64,
    /// Linear address, for marking it accessed or busy.
    pub linear: u64,
}

impl Descriptor {
    /// The segment register contents that this descriptor and selector give.
    pub fn segment(self, selector: u16) -> Segment {
        descriptor::Descriptor(self.raw).segment(selector)
    }

    pub fn kind(self) -> u8 {
        ((self.raw >> 40) & 15) as u8
    }

    pub fn dpl(self) -> u8 {
        ((self.raw >> 45) & 3) as u8
    }

    pub fn present(self) -> bool {
        self.raw >> 47 & 1 != 0
    }

    /// S bit: code or data rather than system.
    pub fn code_or_data(self) -> bool {
        self.raw >> 44 & 1 != 0
    }

    pub fn is_code(self) -> bool {
        self.code_or_data() && self.kind() & 8 != 0
    }

    pub fn conforming(self) -> bool {
        self.kind() & 4 != 0
    }

    /// Writable data.
    pub fn is_writable_data(self) -> bool {
        self.code_or_data() && self.kind() & 0b1010 == 0b0010
    }

    /// Data, or code that may be read.
    pub fn is_readable(self) -> bool {
        self.code_or_data() && self.kind() & 0b1010 != 0b1000
    }

    /// Not allowed in long mode: L and D both set.
    pub fn long_and_big(self) -> bool {
        self.raw >> 53 & 3 == 3
    }

    pub fn is_long(self) -> bool {
        self.raw >> 53 & 1 != 0
    }
}

/// The segment of real and virtual-8086 mode: a paragraph number.
pub(crate) fn paragraph(cpu: &CpuState, mode: Mode, register: SegmentRegister, selector: u16) -> Segment {
    let base = u64::from(selector) << 4;
    if mode == Mode::Virtual8086 {
        return Segment { base, limit: 0xffff, selector, attributes: VIRTUAL_8086 };
    }
    // Real mode leaves limit and attributes as they are: "big real mode" rests on that. What a null selector has
    // left unusable becomes a plain segment.
    let present = cpu.segment(register);
    let plain = Segment { limit: 0xffff, attributes: 0x93, ..*present };
    let kept = if present.is_present() { *present } else { plain };
    Segment { base, selector, ..kept }
}

/// Attributes of every segment in virtual-8086 mode: present, DPL 3, writable data, accessed.
pub(crate) const VIRTUAL_8086: u16 = 0xf3;

impl<E: Environment + ?Sized> Context<'_, E> {
    /// Fetches a descriptor; `error` makes the exception for a selector outside its table.
    pub(crate) fn descriptor(
        &mut self,
        selector: u16,
        error: fn(u32) -> Exception,
    ) -> Result<Descriptor, Exception> {
        let (base, limit) = if selector & 4 == 0 {
            (self.cpu.gdtr.base, u32::from(self.cpu.gdtr.limit))
        } else if self.cpu.ldtr.is_present() {
            (self.cpu.ldtr.base, self.cpu.ldtr.limit)
        } else {
            return Err(error(without_rpl(selector)));
        };
        let offset = u32::from(selector & 0xfff8);
        if offset + 7 > limit {
            return Err(error(without_rpl(selector)));
        }
        let linear = self.table_address(base, offset.into());
        let raw = self.read_value(linear, 8, Level::SYSTEM)?;
        Ok(Descriptor { raw, linear })
    }

    /// The upper eight bytes of a 16-byte system descriptor.
    pub(crate) fn descriptor_high(
        &mut self,
        selector: u16,
        error: fn(u32) -> Exception,
    ) -> Result<u64, Exception> {
        let limit = if selector & 4 == 0 { self.cpu.gdtr.limit.into() } else { self.cpu.ldtr.limit };
        let base = if selector & 4 == 0 { self.cpu.gdtr.base } else { self.cpu.ldtr.base };
        let offset = u32::from(selector & 0xfff8) + 8;
        if offset + 7 > limit {
            return Err(error(without_rpl(selector)));
        }
        let linear = self.table_address(base, offset.into());
        self.read_value(linear, 8, Level::SYSTEM)
    }

    /// The linear address of an entry in a table: 32 bits wide outside long mode.
    pub(crate) fn table_address(&self, base: u64, offset: u64) -> u64 {
        let linear = base.wrapping_add(offset);
        if long_mode(self.cpu) { linear } else { linear & 0xffff_ffff }
    }

    /// Sets the accessed bit in memory and in the descriptor at hand.
    pub(crate) fn mark_accessed(&mut self, descriptor: &mut Descriptor) -> Result<(), Exception> {
        const ACCESSED: u64 = 1 << 40;
        if descriptor.raw & ACCESSED == 0 {
            descriptor.raw |= ACCESSED;
            let byte = (descriptor.raw >> 40) & 0xff;
            self.write_value(descriptor.linear + 5, 1, byte, Level::SYSTEM)?;
        }
        Ok(())
    }

    /// What a load of DS, ES, FS, GS or SS with this selector gives; nothing is committed but the accessed bit.
    pub(crate) fn data_segment(
        &mut self,
        register: SegmentRegister,
        selector: u16,
    ) -> Result<Segment, Exception> {
        let mode = self.mode();
        if mode.is_real_style() {
            return Ok(paragraph(self.cpu, mode, register, selector));
        }
        let cpl = self.cpu.cpl();
        if register == SegmentRegister::Ss {
            let to_long = mode == Mode::Long64;
            return self.stack_segment(selector, cpl, to_long, Exception::gp);
        }
        if is_null(selector) {
            return Ok(null(selector, 0));
        }
        let mut descriptor = self.descriptor(selector, Exception::gp)?;
        let code = without_rpl(selector);
        let dpl = descriptor.dpl();
        let privileged = descriptor.is_code() && descriptor.conforming();
        if !descriptor.is_readable() || (!privileged && (rpl(selector) > dpl || cpl > dpl)) {
            return Err(Exception::gp(code));
        }
        if !descriptor.present() {
            return Err(Exception::with_code(Vector::SegmentNotPresent, code));
        }
        self.mark_accessed(&mut descriptor)?;
        Ok(descriptor.segment(selector))
    }

    /// What SS holds after a load at privilege level `cpl`. `error` makes the exception for a bad selector: #GP,
    /// or #TS where it came from a TSS. `to_long`: the code that will use it is 64-bit.
    pub(crate) fn stack_segment(
        &mut self,
        selector: u16,
        cpl: u8,
        to_long: bool,
        error: fn(u32) -> Exception,
    ) -> Result<Segment, Exception> {
        if is_null(selector) {
            // 64-bit code may run without a stack segment, except in ring 3.
            return if to_long && cpl < 3 && rpl(selector) == cpl {
                Ok(null(selector, cpl))
            } else {
                Err(error(0))
            };
        }
        let code = without_rpl(selector);
        let mut descriptor = self.descriptor(selector, error)?;
        if rpl(selector) != cpl || descriptor.dpl() != cpl || !descriptor.is_writable_data() {
            return Err(error(code));
        }
        if !descriptor.present() {
            return Err(Exception::ss(code));
        }
        self.mark_accessed(&mut descriptor)?;
        Ok(descriptor.segment(selector))
    }

    /// Whether the CS descriptor may become the code segment of `cpl`, ring changes already decided.
    pub(crate) fn check_code_width(&self, descriptor: Descriptor, selector: u16) -> Result<(), Exception> {
        if long_mode(self.cpu) && descriptor.long_and_big() {
            return Err(Exception::gp(without_rpl(selector)));
        }
        Ok(())
    }

    /// Leaves nothing inner in DS, ES, FS and GS on the way to an outer ring.
    pub(crate) fn drop_inner_segments(&mut self, cpl: u8) {
        use SegmentRegister::{Ds, Es, Fs, Gs};
        for register in [Es, Ds, Fs, Gs] {
            let segment = self.cpu.segment_mut(register);
            let conforming = segment.has(Segment::EXECUTABLE | Segment::CONFORMING_OR_EXPAND_DOWN);
            if segment.is_present() && !conforming && segment.dpl() < cpl {
                // 64-bit code goes on using the bases of FS and GS, which a load would have cleared.
                let base = if matches!(register, Fs | Gs) { segment.base } else { 0 };
                *segment = Segment { base, ..null(0, 0) };
            }
        }
    }
}

/// An unusable segment register. SS keeps a DPL there, since that is the current privilege level.
pub(crate) fn null(selector: u16, dpl: u8) -> Segment {
    Segment { base: 0, limit: 0, selector, attributes: u16::from(dpl) << 5 }
}
