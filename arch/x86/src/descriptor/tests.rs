//! Descriptors as Linux and the manuals write them.

use super::*;

#[test]
fn selectors() {
    let selector = Selector(0x2f);
    assert_eq!((selector.index(), selector.offset(), selector.rpl()), (5, 0x28, 3));
    assert!(selector.is_local() && !selector.is_null());
    assert_eq!(selector.error_code(), 0x2c, "TI stays, RPL goes");
    assert!(Selector(3).is_null() && !Selector(4).is_null());
}

#[test]
fn segments() {
    let code = Descriptor(0x00af_9b00_0000_ffff).segment(0x10);
    assert_eq!(code, Segment { base: 0, limit: u32::MAX, selector: 0x10, attributes: 0xa09b });
    assert!(code.has(Segment::LONG | Segment::PRESENT | Segment::EXECUTABLE | Segment::GRANULARITY));
    let odd = Descriptor(0x124f_f234_5678_9abc).segment(0x1b);
    assert_eq!(odd, Segment { base: 0x1234_5678, limit: 0xf_9abc, selector: 0x1b, attributes: 0x40f2 });
    assert_eq!(odd.dpl(), 3);
    let accessed = Descriptor(0x124f_f234_5678_9abc | Descriptor::ACCESSED).segment(0x1b);
    assert!(accessed.has(Segment::ACCESSED));
}

#[test]
fn long_system_segments() {
    let raw = 0xffff_fe00_u128 << 64 | 0x0000_8900_3000_4087;
    let tss = LongDescriptor(raw).segment(0x40);
    assert_eq!(tss, Segment { base: 0xffff_fe00_0000_3000, limit: 0x4087, selector: 0x40, attributes: 0x89 });
    assert_eq!(tss.kind(), system::TSS);
    let busy = LongDescriptor(raw | Descriptor::BUSY as u128).segment(0x40);
    assert_eq!(busy.kind(), system::TSS_BUSY);
    // What stands above the base is not part of it.
    assert_eq!(LongDescriptor(raw | 0x1f00 << 96).segment(0x40), tss);
}

#[test]
fn gates() {
    let gate = Gate::new(0xc012_ee00_0010_3456);
    let expected = Gate {
        kind: system::INTERRUPT_GATE,
        selector: 0x10,
        offset: 0xc012_3456,
        dpl: 3,
        present: true,
        parameters: 0,
        ist: 0,
    };
    assert_eq!(gate, expected);
    assert!(gate.clears_if() && gate.is_interrupt_or_trap() && !gate.is_16_bit());

    let long = Gate::long(0xffff_ffff_u128 << 64 | 0x8180_8f03_0010_1230);
    let expected =
        Gate { kind: system::TRAP_GATE, offset: 0xffff_ffff_8180_1230, dpl: 0, ist: 3, ..expected };
    assert_eq!(long, expected);
    assert!(!long.clears_if() && long.is_interrupt_or_trap());

    let call = Gate::new(0xdead_8405_0008_1000);
    assert_eq!((call.kind, call.offset, call.parameters), (system::CALL_GATE16, 0x1000, 5));
    assert!(call.is_16_bit() && !call.is_interrupt_or_trap());
    assert!(!Gate::new(0x0000_8500_0028_0000).is_interrupt_or_trap(), "a task gate");
    assert!(!Gate::new(0x0000_9e00_0028_0000).is_interrupt_or_trap(), "code or data");
}

#[test]
fn stacks_in_task_state_segments() {
    assert_eq!((tss16::sp(0), tss16::sp(2)), (2, 10));
    assert_eq!((tss32::esp(0), tss32::esp(2)), (4, 20));
    assert_eq!((tss64::rsp(0), tss64::rsp(2)), (4, 20));
    assert_eq!((tss64::ist(1), tss64::ist(7)), (0x24, 0x54));
}
