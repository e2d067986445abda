//! The buses' splitting and routing, seen from a device that records.

use super::*;

#[derive(Default)]
struct Recorder {
    width: u8,
    log: Vec<(u64, Vec<u8>)>,
}

impl PortDevice for Recorder {
    fn width(&self) -> u8 {
        self.width
    }

    fn read(&mut self, offset: u16, size: u8) -> u32 {
        self.log.push((offset.into(), vec![size]));
        0x4433_2211
    }

    fn write(&mut self, offset: u16, size: u8, value: u32) {
        self.log.push((offset.into(), value.to_le_bytes()[..usize::from(size)].to_vec()));
    }
}

impl MmioDevice for Recorder {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        self.log.push((offset, vec![data.len() as u8]));
        data.fill(offset as u8);
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        self.log.push((offset, data.to_vec()));
    }
}

fn recorder(width: u8) -> Arc<Mutex<Recorder>> {
    Arc::new(Mutex::new(Recorder { width, log: Vec::new() }))
}

fn taken(recorder: &Mutex<Recorder>) -> Vec<(u64, Vec<u8>)> {
    std::mem::take(&mut lock(recorder).log)
}

#[test]
fn ports_split_by_width_and_by_owner() {
    let bus = PortBus::new();
    let (narrow, wide) = (recorder(1), recorder(4));
    bus.claim("narrow", 0x60..=0x60, 0, narrow.clone()).unwrap();
    bus.claim("narrow", 0x64..=0x64, 4, narrow.clone()).unwrap();
    bus.claim("wide", 0xcf8..=0xcff, 0, wide.clone()).unwrap();

    assert_eq!(bus.read(0x60, 4), 0xffff_ff11);
    assert_eq!(taken(&narrow), [(0, vec![1])]);
    assert_eq!(bus.read(0x63, 2), 0x11ff);
    assert_eq!(taken(&narrow), [(4, vec![1])]);
    bus.write(0x60, 2, 0xabcd);
    assert_eq!(taken(&narrow), [(0, vec![0xcd])]);

    assert_eq!(bus.read(0xcf8, 4), 0x4433_2211);
    assert_eq!(bus.read(0xcfe, 2), 0x2211);
    // Unaligned, and past the end: bytes.
    bus.write(0xcfd, 2, 0x0102);
    bus.write(0xcfe, 4, 0x0403_0201);
    assert_eq!(taken(&wide), [(0, vec![4]), (6, vec![2]), (5, vec![2]), (6, vec![1]), (6, vec![1, 2]),]);
    assert_eq!(bus.read(0xffff, 4), u32::MAX);
}

#[test]
fn a_byte_claim_lies_over_a_wide_one() {
    let bus = PortBus::new();
    let (pci, reset) = (recorder(4), recorder(1));
    bus.claim("pci", 0xcf8..=0xcff, 0, pci.clone()).unwrap();
    bus.claim_byte("reset", 0xcf9, 0, reset.clone()).unwrap();
    bus.write(0xcf8, 4, 0x8000_0000);
    bus.write(0xcf9, 1, 6);
    bus.write(0xcf8, 1, 1);
    assert_eq!(taken(&pci), [(0, vec![0, 0, 0, 0x80]), (0, vec![1])]);
    assert_eq!(taken(&reset), [(0, vec![6])]);
    assert_eq!(
        bus.claim_byte("again", 0xcf9, 0, reset),
        Err(BusError::Overlap { name: "again", first: 0xcf9, last: 0xcf9, other: "reset" })
    );
}

#[test]
fn port_claims_must_not_overlap_until_released() {
    let bus = PortBus::new();
    let device = recorder(1);
    bus.claim("a", 0x10..=0x1f, 0, device.clone()).unwrap();
    let overlap = BusError::Overlap { name: "b", first: 0x1f, last: 0x20, other: "a" };
    assert_eq!(bus.claim("b", 0x1f..=0x20, 0, device.clone()), Err(overlap));
    assert_eq!(bus.claim("b", 0x10..=0x20, 0xffff, device.clone()), Err(BusError::Range { name: "b" }));
    bus.release(0x11);
    assert_eq!(bus.read(0x10, 1), 0x11);
    bus.release(0x10);
    assert_eq!(bus.read(0x10, 1), 0xff);
    bus.claim("b", 0x1f..=0x20, 0, device).unwrap();
}

#[test]
fn memory_splits_between_owners() {
    let bus = MmioBus::new();
    let (low, high) = (recorder(1), recorder(1));
    bus.claim("high", 0x2000, 0x1000, high.clone()).unwrap();
    bus.claim("low", 0x1000, 0xffe, low.clone()).unwrap();
    let mut data = [0; 8];
    bus.read(0x1ffc, &mut data);
    assert_eq!(data, [0xfc, 0xfc, 0xff, 0xff, 0, 0, 0, 0]);
    bus.write(0x2ffe, &[1, 2, 3, 4]);
    assert_eq!(taken(&low), [(0xffc, vec![2])]);
    assert_eq!(taken(&high), [(0, vec![4]), (0xffe, vec![1, 2])]);

    assert_eq!(
        bus.claim("last", 0x1ffd, 1, low.clone()),
        Err(BusError::Overlap { name: "last", first: 0x1ffd, last: 0x1ffd, other: "low" })
    );
    assert_eq!(bus.claim("empty", 0x1ffe, 0, low.clone()), Err(BusError::Range { name: "empty" }));
    bus.claim("end", u64::MAX, 1, low).unwrap();
    bus.release(0x2000);
    bus.read(0x2000, &mut data);
    assert_eq!(data, [0xff; 8]);
}
