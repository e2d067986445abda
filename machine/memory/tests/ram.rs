//! Guest RAM through its public face: layout, accesses at every alignment and edge, observers.

use std::sync::{Arc, Mutex};

use memory::{
    AllocateError, DiscardError, Dma, GuestRam, HIGH_RAM_START, LOW_RAM_END, OutOfRange, RamOptions,
    WatchError, WatchSink,
};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

const MIB: u64 = 1 << 20;

/// Two regions that meet at 64 KiB, and a third behind a hole.
fn three_regions() -> GuestRam {
    let layout = [(0, 0x1_0000), (0x1_0000, 0x1_0000), (0x10_0000, 0x1_0000)];
    GuestRam::with_layout(&layout, RamOptions::default()).unwrap()
}

#[derive(Default)]
struct Mailbox(Mutex<Vec<(u64, usize)>>);

impl WatchSink for Mailbox {
    fn written(&self, gpa: u64, len: usize) {
        self.0.lock().unwrap().push((gpa, len));
    }
}

impl Mailbox {
    fn drain(&self) -> Vec<(u64, usize)> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

#[test]
fn small_ram_is_one_region_from_zero() {
    let ram = GuestRam::allocate(64 * MIB).unwrap();
    let [region] = ram.regions() else { panic!("{:?}", ram.regions()) };
    assert_eq!((region.gpa, region.len), (0, 64 * MIB));
    assert_eq!(ram.size(), 64 * MIB);
    assert_eq!(ram.resident().unwrap(), 0, "nothing is populated before it is touched");
    ram.write_u8(5 * MIB, 1).unwrap();
    assert_ne!(ram.resident().unwrap(), 0);
}

#[test]
fn large_ram_leaves_the_mmio_hole_free() {
    let ram = GuestRam::allocate(5 << 30).unwrap();
    let layout: Vec<_> = ram.regions().iter().map(|region| (region.gpa, region.len)).collect();
    assert_eq!(layout, [(0, LOW_RAM_END), (HIGH_RAM_START, 2 << 30)]);
    ram.write_u64(HIGH_RAM_START + 8, 42).unwrap();
    assert_eq!(ram.read_u64(HIGH_RAM_START + 8), Ok(42));
    assert_eq!(ram.read_u8(LOW_RAM_END), Err(OutOfRange { gpa: LOW_RAM_END, len: 1 }));
    assert_eq!(ram.host_address(LOW_RAM_END), None);
    assert!(ram.read_u32(LOW_RAM_END - 2).is_err(), "half of it is missing");
}

#[test]
fn regions_follow_each_other_in_the_file() {
    let ram = three_regions();
    let offsets = [0x123, 0x1_0123, 0x10_0123].map(|gpa| ram.file_offset(gpa));
    assert_eq!(offsets, [Some(0x123), Some(0x1_0123), Some(0x2_0123)]);
    assert_eq!(ram.file_offset(0x2_0000), None);
}

#[test]
fn bad_layouts_are_refused() {
    let bad: [&[(u64, u64)]; 7] = [
        &[],
        &[(0, 0)],
        &[(0, 100)],
        &[(10, 4096)],
        &[(4096, 4096), (0, 4096)],
        &[(0, 8192), (4096, 4096)],
        &[(u64::MAX - 4095, 8192)],
    ];
    for layout in bad {
        let result = GuestRam::with_layout(layout, RamOptions::default());
        assert!(matches!(result, Err(AllocateError::Layout { .. })), "{layout:?}");
    }
    assert!(GuestRam::allocate(0).is_err());
    assert!(GuestRam::allocate(!4095).is_err());
}

#[test]
fn every_width_reads_back_at_every_alignment_and_across_regions() {
    let ram = three_regions();
    let value = 0x0123_4567_89ab_cdef_u64;
    for gpa in 0xfff0..0x1_0010 {
        ram.write_u64(gpa, value).unwrap();
        assert_eq!(ram.read_u64(gpa), Ok(value));
        let mut bytes = [0; 8];
        ram.read(gpa, &mut bytes).unwrap();
        assert_eq!(bytes, value.to_le_bytes());
        ram.write_u32(gpa, 0xaabb_ccdd).unwrap();
        ram.write_u16(gpa + 4, 0xeeff).unwrap();
        ram.write_u8(gpa + 6, 0x77).unwrap();
        assert_eq!(ram.read_u64(gpa), Ok(0x0177_eeff_aabb_ccdd));
        assert_eq!(ram.read_u32(gpa), Ok(0xaabb_ccdd));
        assert_eq!(ram.read_u16(gpa + 4), Ok(0xeeff));
        assert_eq!(ram.read_u8(gpa + 6), Ok(0x77));
    }
}

#[test]
fn edges_are_out_of_range_and_write_nothing() {
    let ram = three_regions();
    let end = 0x2_0000;
    ram.fill(end - 16, 16, 0x11).unwrap();
    for gpa in [end - 7, end - 1, end, 0xf_fffc, 0x11_0000, u64::MAX - 3, u64::MAX] {
        assert_eq!(ram.read_u64(gpa), Err(OutOfRange { gpa, len: 8 }), "{gpa:#x}");
        assert_eq!(ram.write_u64(gpa, 0), Err(OutOfRange { gpa, len: 8 }), "{gpa:#x}");
        assert!(ram.compare_exchange_u64(gpa, 0, 1).is_err(), "{gpa:#x}");
        assert!(ram.write(gpa, &[0; 8]).is_err(), "{gpa:#x}");
        assert!(ram.fill(gpa, 8, 0).is_err(), "{gpa:#x}");
        assert!(ram.copy(0, gpa, 8).is_err() && ram.copy(gpa, 0, 8).is_err(), "{gpa:#x}");
        assert!(ram.mark_written(gpa, 8).is_err(), "{gpa:#x}");
    }
    let mut tail = [0; 16];
    ram.read(end - 16, &mut tail).unwrap();
    assert_eq!(tail, [0x11; 16], "a refused write left bytes behind");
}

#[test]
fn compare_exchange_swaps_only_what_it_expects() {
    let ram = three_regions();
    for gpa in [0x100, 0x103, 0xfff] {
        ram.write_u64(gpa, 7).unwrap();
        assert_eq!(ram.compare_exchange_u64(gpa, 8, 9), Ok(Err(7)));
        assert_eq!(ram.read_u64(gpa), Ok(7));
        assert_eq!(ram.compare_exchange_u64(gpa, 7, u64::MAX), Ok(Ok(7)));
        assert_eq!(ram.read_u64(gpa), Ok(u64::MAX));
        assert_eq!(ram.compare_exchange_u32(gpa, u32::MAX, 0), Ok(Ok(u32::MAX)));
        assert_eq!(ram.read_u64(gpa), Ok(u64::MAX << 32), "only four bytes change");
    }
}

#[test]
fn compare_exchange_is_indivisible() {
    let ram = three_regions();
    let (rounds, gpa) = (20_000, 0x204);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for _ in 0..rounds {
                    let mut seen = ram.read_u32(gpa).unwrap();
                    while let Err(now) = ram.compare_exchange_u32(gpa, seen, seen + 1).unwrap() {
                        seen = now;
                    }
                }
            });
        }
    });
    assert_eq!(ram.read_u32(gpa), Ok(2 * rounds));
}

#[test]
fn host_addresses_show_the_same_bytes() {
    let ram = three_regions();
    ram.write_u8(0x1_0005, 0x42).unwrap();
    let region = ram.regions()[1];
    assert_eq!(ram.host_address(0x1_0005).unwrap().as_ptr() as usize, region.host.as_ptr() as usize + 5);
    let memory = ram.as_guest_memory();
    assert_eq!(memory.read_obj::<u8>(GuestAddress(0x1_0005)).unwrap(), 0x42);
    assert_eq!(memory.last_addr(), GuestAddress(0x10_ffff));
}

#[test]
fn watched_pages_report_every_kind_of_write() {
    let ram = three_regions();
    let mailbox = Arc::new(Mailbox::default());
    let watcher = ram.watcher(mailbox.clone()).unwrap();
    assert!(watcher.watch(0x3004));
    assert!(!watcher.watch(0x5_0000), "there is no RAM to watch");
    assert!(ram.is_watched(0x3fff) && !ram.is_watched(0x4000) && !ram.is_watched(0x5_0000));

    ram.write_u64(0x3008, 1).unwrap();
    ram.write_u16(0x3011, 1).unwrap();
    ram.write(0x2ffe, &[1, 2, 3]).unwrap();
    ram.write_u32(0x3ffe, 9).unwrap();
    ram.compare_exchange_u32(0x3020, 0, 1).unwrap().unwrap();
    ram.as_guest_memory().write_obj(7u32, GuestAddress(0x3030)).unwrap();
    ram.mark_written(0x3040, 4).unwrap();
    assert!(Dma::new(ram.clone()).write(0x3050, &[1]));
    ram.fill(0x2000, 0x3000, 1).unwrap();
    ram.copy(0x1000, 0x2f00, 0x200).unwrap();
    let expected = [
        (0x3008, 8),
        (0x3011, 2),
        (0x3000, 1),
        (0x3ffe, 2),
        (0x3020, 4),
        (0x3030, 4),
        (0x3040, 4),
        (0x3050, 1),
        (0x3000, 0x1000),
        (0x3000, 0x100),
    ];
    assert_eq!(mailbox.drain(), expected);

    // None of these touches the page.
    ram.write_u64(0x2ff8, 1).unwrap();
    ram.write_u64(0x4000, 1).unwrap();
    ram.read_u64(0x3000).unwrap();
    ram.compare_exchange_u32(0x3020, 0xdead, 1).unwrap().unwrap_err();
    ram.write(0x3000, &[]).unwrap();
    watcher.unwatch(0x3123);
    ram.write_u64(0x3008, 1).unwrap();
    assert_eq!(mailbox.drain(), []);
}

#[test]
fn what_is_discarded_reads_as_zero_and_is_reported() {
    let ram = three_regions();
    ram.fill(0, 0x2_0000, 0xaa).unwrap();
    let resident = ram.resident().unwrap();
    let mailbox = Arc::new(Mailbox::default());
    let watcher = ram.watcher(mailbox.clone()).unwrap();
    watcher.watch(0x3000);
    ram.start_dirty_log();
    // Half a page on either side stays.
    ram.discard(0x1800, 0x3000).unwrap();
    assert_eq!(ram.resident().unwrap(), resident - 0x2000);
    let held: Vec<_> = (0..6).map(|page| ram.read_u8(page << 12).unwrap()).collect();
    assert_eq!(held, [0xaa, 0xaa, 0, 0, 0xaa, 0xaa]);
    assert_eq!(mailbox.drain(), [(0x3000, 0x1000)]);
    assert_eq!(ram.take_dirty().iter().collect::<Vec<_>>(), [0x2000, 0x3000]);
    // Less than a page is nothing; what is not RAM is an error; regions are discarded one by one.
    ram.discard(0x4001, 0x1ffe).unwrap();
    assert_eq!(ram.read_u8(0x4fff), Ok(0xaa));
    for (gpa, len) in [(0x2_0000, 0x1000), (0xf000, 0x2000), (u64::MAX - 0xfff, 0x1000)] {
        assert!(matches!(ram.discard(gpa, len), Err(DiscardError::OutOfRange(_))), "{gpa:#x}");
    }
    ram.write_u8(0x2000, 7).unwrap();
    assert_eq!(ram.read_u8(0x2000), Ok(7));
}

#[test]
fn watchers_do_not_disturb_each_other() {
    let ram = three_regions();
    let boxes = [Arc::new(Mailbox::default()), Arc::new(Mailbox::default())];
    let first = ram.watcher(boxes[0].clone()).unwrap();
    let second = ram.watcher(boxes[1].clone()).unwrap();
    first.watch(0x1000);
    second.watch(0x1000);
    second.watch(0x10_0000);
    first.unwatch(0x1000);
    assert!(second.watches(0x1000) && !first.watches(0x1000));
    ram.write_u8(0x1000, 1).unwrap();
    assert_eq!((boxes[0].drain(), boxes[1].drain()), (vec![], vec![(0x1000, 1)]));
    drop(second);
    assert!(!ram.is_watched(0x1000) && !ram.is_watched(0x10_0000), "a dropped watcher leaves nothing behind");

    let many: Vec<_> = (0..63).map(|_| ram.watcher(boxes[0].clone()).unwrap()).collect();
    assert_eq!(ram.watcher(boxes[0].clone()).unwrap_err(), WatchError::TooMany(64));
    drop(many);
    assert!(ram.watcher(boxes[0].clone()).is_ok(), "slots are free again");
}

#[test]
fn a_translation_of_stale_bytes_is_always_reported() {
    // The engine's side (watch, then read) against the writer's (write, then look at the watch): one of them
    // must notice the other.
    let ram = three_regions();
    let mailbox = Arc::new(Mailbox::default());
    let watcher = ram.watcher(mailbox.clone()).unwrap();
    for round in 1..=2000u64 {
        let start = std::sync::Barrier::new(2);
        let read = std::thread::scope(|scope| {
            scope.spawn(|| {
                start.wait();
                ram.write_u64(0x7000, round).unwrap();
            });
            start.wait();
            watcher.watch(0x7000);
            ram.read_u64(0x7000).unwrap()
        });
        let reported = !mailbox.drain().is_empty();
        assert!(read == round || reported, "round {round}: read stale {read}, and nobody said so");
        watcher.unwatch(0x7000);
    }
}

#[test]
fn the_dirty_log_holds_each_written_page_once() {
    let ram = three_regions();
    ram.write_u8(0x9000, 1).unwrap();
    assert_eq!(ram.take_dirty().count(), 0, "the log is off");
    ram.start_dirty_log();
    ram.write_u64(0x1ffc, 1).unwrap();
    ram.write_u64(0x1ffc, 1).unwrap();
    ram.write(0x10_f000, &[0; 4096]).unwrap();
    ram.mark_dirty(0x1_0000, 1).unwrap();
    ram.as_guest_memory().write_obj(1u8, GuestAddress(0x4000)).unwrap();
    let dirty = ram.take_dirty();
    assert_eq!(dirty.iter().collect::<Vec<_>>(), [0x1000, 0x2000, 0x4000, 0x1_0000, 0x10_f000]);
    assert_eq!(dirty.count(), 5);
    assert_eq!(ram.take_dirty().count(), 0, "taken is taken");
    ram.write_u8(0x5000, 1).unwrap();
    ram.start_dirty_log();
    assert_eq!(ram.take_dirty().count(), 0, "a new log is empty");
    ram.stop_dirty_log();
    ram.write_u8(0x5000, 1).unwrap();
    assert_eq!(ram.take_dirty().count(), 0);
}

#[test]
fn dma_to_nowhere_reads_ones_and_writes_nothing() {
    let ram = three_regions();
    let dma = Dma::new(ram.clone());
    ram.fill(0x1_f000, 0x1000, 0x22).unwrap();
    let mut buffer = [0; 8];
    assert!(!dma.read(0x1_fffc, &mut buffer));
    assert_eq!(buffer, [0x22, 0x22, 0x22, 0x22, 0xff, 0xff, 0xff, 0xff]);
    assert!(!dma.write(0x1_fffc, &[0x33; 8]));
    assert_eq!(ram.read_u32(0x1_fffc), Ok(0x3333_3333));
    assert!(!dma.read(u64::MAX - 3, &mut buffer));
    assert_eq!(buffer, [0xff; 8]);
    assert!(dma.read(0x100, &mut buffer));
    assert_eq!(buffer, [0; 8]);
}

#[test]
fn a_watch_and_a_writer_see_each_other() {
    let ram = three_regions();
    let boxes: [Arc<Mailbox>; 2] = Default::default();
    let [first, second] = [0, 1].map(|n| ram.watcher(boxes[n].clone()).unwrap());
    assert!(first.admit_writer(0x1000) && first.admit_writer(0x1fff) && second.admit_writer(0x1000));
    assert!(!first.admit_writer(0x5_0000), "there is no RAM to write");
    assert!(first.watch(0x1234));
    assert_eq!(first.writers(0x1000), 1 << first.slot() | 1 << second.slot());
    assert!(!second.admit_writer(0x1000), "it is watched now");
    assert!(second.admit_writer(0x2000), "and only this page is");
    second.dismiss_writer(0x1000);
    first.dismiss_writer(0x1000);
    assert_eq!((first.writers(0x1000), first.writers(0x2000)), (0, 1 << second.slot()));
    first.unwatch(0x1000);
    assert!(second.admit_writer(0x1000), "nobody watches it any more");
    drop(second);
    assert_eq!(
        (first.writers(0x1000), first.writers(0x2000)),
        (0, 0),
        "a dropped watcher leaves nothing behind"
    );
}

/// Exchanges at every width and alignment; only one of two that expect the same succeeds.
#[test]
fn exchanges_of_any_width() {
    let ram = three_regions();
    let mailbox = Arc::new(Mailbox::default());
    let watcher = ram.watcher(mailbox.clone()).unwrap();
    watcher.watch(0x2000);
    for (len, at) in [(1, 0x2003), (2, 0x2fff), (4, 0x2001), (8, 0x203d), (16, 0x2040)] {
        ram.write(at, &vec![7; len + 1]).unwrap();
        mailbox.drain();
        let (old, new): (Vec<u8>, Vec<u8>) = (vec![7; len], (1..=len as u8).collect());
        assert_eq!(ram.compare_exchange(at, &old, &new), Ok(Some(true)), "{len}");
        assert_eq!(mailbox.drain().first().map(|(gpa, _)| *gpa), Some(at), "{len}");
        assert_eq!(ram.compare_exchange(at, &old, &new), Ok(Some(false)), "{len}");
        assert_eq!(mailbox.drain(), []);
        let mut now = vec![0; len + 1];
        ram.read(at, &mut now).unwrap();
        assert_eq!((&now[..len], now[len]), (&new[..], 7), "{len}");
    }
    assert_eq!(ram.compare_exchange(0x2000, &[0; 3], &[0; 3]), Ok(None));
    assert_eq!(ram.compare_exchange(0x2048, &[0; 16], &[0; 16]), Ok(None), "not aligned");
    assert!(ram.compare_exchange(0x1_fffd, &[0; 8], &[0; 8]).is_err());
}

/// What one thread writes in one access another never sees by halves.
#[test]
fn values_are_not_torn() {
    let ram = three_regions();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0..200_000_u64 {
                let byte = n as u8;
                for (at, len) in [(0x1000, 2), (0x1010, 4), (0x1020, 8)] {
                    ram.write(at, &[byte; 8][..len]).unwrap();
                }
            }
            done.store(true, std::sync::atomic::Ordering::Release);
        });
        while !done.load(std::sync::atomic::Ordering::Acquire) {
            for (at, len) in [(0x1000, 2), (0x1010, 4), (0x1020, 8)] {
                let mut bytes = [0; 8];
                ram.read(at, &mut bytes[..len]).unwrap();
                assert!(bytes[..len].iter().all(|byte| *byte == bytes[0]), "{len}: {bytes:x?}");
            }
        }
    });
}

#[test]
fn copies_may_overlap() {
    let ram = three_regions();
    let bytes: Vec<u8> = (0..200).collect();
    for to in [0x0f00, 0x0ff0, 0x1000, 0x1008, 0x2000] {
        ram.write(0x1000, &bytes).unwrap();
        ram.copy(0x1000, to, bytes.len()).unwrap();
        let mut copied = vec![0; bytes.len()];
        ram.read(to, &mut copied).unwrap();
        assert_eq!(copied, bytes, "{to:#x}");
    }
}
