//! Selectors, descriptors, gates and task-state segments as they lie in memory (SDM vol. 3 ch. 3.4, 5.8, 6.11
//! and 7.2; APM vol. 2 ch. 4 and 8).
//!
//! Parsing only: who may use what is checked by the interpreter, since each instruction checks in its own order
//! and with its own exception.

use crate::Segment;

#[cfg(test)]
mod tests;

/// A segment selector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Selector(pub u16);

impl Selector {
    /// Index of the descriptor in its table.
    pub const fn index(self) -> u16 {
        self.0 >> 3
    }

    /// Offset of the descriptor in its table.
    pub const fn offset(self) -> u16 {
        self.0 & !7
    }

    /// TI: in the local descriptor table, not the global one.
    pub const fn is_local(self) -> bool {
        self.0 & 4 != 0
    }

    /// Requested privilege level.
    pub const fn rpl(self) -> u8 {
        (self.0 & 3) as u8
    }

    /// Whether it names no descriptor: index and TI zero, whatever the RPL.
    pub const fn is_null(self) -> bool {
        self.0 & !3 == 0
    }

    /// As an exception's error code gives it: without RPL.
    pub const fn error_code(self) -> u32 {
        (self.0 & !3) as u32
    }
}

/// Types of system descriptors (SDM vol. 3 table 3-2). In long mode 2 is LDT and 9, 11, 12, 14 and 15 are the
/// 64-bit forms; the rest are reserved there.
pub mod system {
    /// 16-bit TSS, available.
    pub const TSS16: u8 = 1;
    /// Local descriptor table.
    pub const LDT: u8 = 2;
    /// 16-bit TSS, busy.
    pub const TSS16_BUSY: u8 = 3;
    /// 16-bit call gate.
    pub const CALL_GATE16: u8 = 4;
    /// Task gate.
    pub const TASK_GATE: u8 = 5;
    /// 16-bit interrupt gate.
    pub const INTERRUPT_GATE16: u8 = 6;
    /// 16-bit trap gate.
    pub const TRAP_GATE16: u8 = 7;
    /// 32-bit or 64-bit TSS, available.
    pub const TSS: u8 = 9;
    /// 32-bit or 64-bit TSS, busy.
    pub const TSS_BUSY: u8 = 11;
    /// 32-bit or 64-bit call gate.
    pub const CALL_GATE: u8 = 12;
    /// 32-bit or 64-bit interrupt gate.
    pub const INTERRUPT_GATE: u8 = 14;
    /// 32-bit or 64-bit trap gate.
    pub const TRAP_GATE: u8 = 15;
}

/// A descriptor of 8 bytes: a segment, or a system segment outside long mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptor(pub u64);

impl Descriptor {
    /// The accessed bit of code and data, in the whole descriptor.
    pub const ACCESSED: u64 = 1 << 40;
    /// The busy bit of a TSS, in the whole descriptor.
    pub const BUSY: u64 = 1 << 41;

    /// What a segment register holds once loaded with this.
    pub const fn segment(self, selector: u16) -> Segment {
        let base = (self.0 >> 16 & 0xff_ffff) | (self.0 >> 32 & 0xff00_0000);
        self.with_base(base, selector)
    }

    const fn with_base(self, base: u64, selector: u16) -> Segment {
        let attributes = (self.0 >> 40) as u16 & 0xf0ff;
        let raw = (self.0 & 0xffff) as u32 | (self.0 >> 32) as u32 & 0xf_0000;
        let limit = if attributes & Segment::GRANULARITY != 0 { raw << 12 | 0xfff } else { raw };
        Segment { base, limit, selector, attributes }
    }
}

/// A system descriptor of 16 bytes, as LLDT and LTR read in long mode: the base has 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LongDescriptor(pub u128);

impl LongDescriptor {
    /// What LDTR or TR holds once loaded with this.
    pub const fn segment(self, selector: u16) -> Segment {
        let low = Descriptor(self.0 as u64);
        let base = low.segment(selector).base | ((self.0 >> 64) as u64) << 32;
        low.with_base(base, selector)
    }
}

/// A gate: how control passes to a more privileged ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gate {
    /// The descriptor's type, S bit included: one of [`system`], if it is a gate at all.
    pub kind: u8,
    /// Code segment, or TSS for a task gate.
    pub selector: u16,
    /// Entry point; meaningless for a task gate.
    pub offset: u64,
    /// Descriptor privilege level.
    pub dpl: u8,
    /// Present.
    pub present: bool,
    /// Call gates outside long mode: how many words or double words are copied to the new stack.
    pub parameters: u8,
    /// 64-bit interrupt and trap gates: entry of the interrupt stack table, or 0 for none.
    pub ist: u8,
}

impl Gate {
    /// From the 8 bytes of the IDT, GDT or LDT outside long mode.
    pub const fn new(raw: u64) -> Self {
        let kind = (raw >> 40 & 0x1f) as u8;
        // The 16-bit forms leave the upper half of the offset undefined.
        let high = if kind & 8 != 0 { raw >> 32 & 0xffff_0000 } else { 0 };
        Self {
            kind,
            selector: (raw >> 16) as u16,
            offset: raw & 0xffff | high,
            dpl: (raw >> 45 & 3) as u8,
            present: raw >> 47 & 1 != 0,
            parameters: (raw >> 32 & 31) as u8,
            ist: 0,
        }
    }

    /// From the 16 bytes of the IDT, GDT or LDT in long mode.
    pub const fn long(raw: u128) -> Self {
        let low = Self::new(raw as u64);
        Self {
            offset: low.offset | ((raw >> 64) as u64) << 32,
            parameters: 0,
            ist: (raw >> 32 & 7) as u8,
            ..low
        }
    }

    /// Whether IF is cleared on the way through.
    pub const fn clears_if(self) -> bool {
        matches!(self.kind, system::INTERRUPT_GATE16 | system::INTERRUPT_GATE)
    }

    /// Whether it is an interrupt or trap gate; a task gate is not.
    pub const fn is_interrupt_or_trap(self) -> bool {
        self.clears_if() || matches!(self.kind, system::TRAP_GATE16 | system::TRAP_GATE)
    }

    /// Whether it is a 16-bit gate, which pushes words.
    pub const fn is_16_bit(self) -> bool {
        self.kind & 8 == 0
    }
}

/// The 16-bit task-state segment (SDM vol. 3 figure 8-10): offsets in bytes.
pub mod tss16 {
    /// Least limit of a usable one.
    pub const LIMIT: u32 = 0x2b;

    /// SP of a ring, 0 to 2; SS follows it.
    pub const fn sp(ring: u8) -> u32 {
        2 + ring as u32 * 4
    }
}

/// The 32-bit task-state segment (SDM vol. 3 figure 8-2): offsets in bytes.
pub mod tss32 {
    /// Least limit of a usable one.
    pub const LIMIT: u32 = 0x67;
    /// Selector of the task that was interrupted.
    pub const LINK: u32 = 0;
    /// CR3.
    pub const CR3: u32 = 28;
    /// EIP.
    pub const EIP: u32 = 32;
    /// EFLAGS.
    pub const EFLAGS: u32 = 36;
    /// EAX, and the other general registers in the order of their encoding, 4 bytes each.
    pub const EAX: u32 = 40;
    /// ES, and the other segment registers in the order of their encoding, 4 bytes each.
    pub const ES: u32 = 72;
    /// Selector of the LDT.
    pub const LDT: u32 = 96;
    /// Bit 0: a debug exception on the switch to this task.
    pub const TRAP: u32 = 100;
    /// Offset of the I/O permission bitmap, 2 bytes.
    pub const IO_MAP_BASE: u32 = 102;

    /// ESP of a ring, 0 to 2; SS follows it.
    pub const fn esp(ring: u8) -> u32 {
        4 + ring as u32 * 8
    }
}

/// The 64-bit task-state segment (SDM vol. 3 figure 8-11): offsets in bytes.
pub mod tss64 {
    /// Least limit of a usable one.
    pub const LIMIT: u32 = 0x67;
    /// Offset of the I/O permission bitmap, 2 bytes.
    pub const IO_MAP_BASE: u32 = 102;

    /// RSP of a ring, 0 to 2.
    pub const fn rsp(ring: u8) -> u32 {
        4 + ring as u32 * 8
    }

    /// An entry of the interrupt stack table, 1 to 7.
    pub const fn ist(entry: u8) -> u32 {
        28 + entry as u32 * 8
    }
}
