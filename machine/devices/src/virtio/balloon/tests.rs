use super::*;
use crate::testing::transplant;
use crate::virtio::testing::{Driver, RAM};

/// A page for the driver's messages, and pages to give away.
const MESSAGE: u64 = 0x1000;
const PAGES: u64 = 0x8000;

fn bench() -> (Driver, Balloon) {
    let driver = Driver::with_queues(64, 4);
    let mut balloon = Balloon::new(driver.ram());
    balloon.activate(driver.activation());
    driver.ram().fill(PAGES, 8 * PAGE_SIZE as usize, 0xaa).unwrap();
    (driver, balloon)
}

/// Which of the eight pages still hold what was written.
fn kept(driver: &Driver) -> Vec<u64> {
    (0..8).filter(|page| driver.ram().read_u64(PAGES + page * PAGE_SIZE) != Ok(0)).collect()
}

fn inflate_with(driver: &mut Driver, balloon: &mut Balloon, pages: &[u32]) {
    let bytes: Vec<u8> = pages.iter().flat_map(|page| page.to_le_bytes()).collect();
    driver.ram().write(MESSAGE, &bytes).unwrap();
    let head = driver.offer_in(queue::INFLATE, &[(MESSAGE, bytes.len() as u32)], &[]);
    balloon.notify(queue::INFLATE);
    assert_eq!(driver.used_in(queue::INFLATE), [(head, 0)]);
}

#[test]
fn pages_in_the_balloon_go_back_to_the_host() {
    let (mut driver, mut balloon) = bench();
    inflate_with(&mut driver, &mut balloon, &[15]);
    let resident = driver.ram().resident().unwrap();
    inflate_with(&mut driver, &mut balloon, &[12, 9, 13, 9]);
    // To look at a page is to have it again.
    assert_eq!(driver.ram().resident().unwrap(), resident - 3 * PAGE_SIZE);
    assert_eq!(kept(&driver), [0, 2, 3, 6]);
    // Let out, they are there again.
    let head = driver.offer_in(queue::DEFLATE, &[(MESSAGE, 4)], &[]);
    balloon.notify(queue::DEFLATE);
    assert_eq!(driver.used_in(queue::DEFLATE), [(head, 0)]);
    driver.ram().write(PAGES + PAGE_SIZE, &[1; 8]).unwrap();
    assert_eq!(kept(&driver), [0, 1, 2, 3, 6]);
}

#[test]
fn page_numbers_that_are_none_are_ignored() {
    let (mut driver, mut balloon) = bench();
    let beyond = (RAM / PAGE_SIZE) as u32;
    inflate_with(&mut driver, &mut balloon, &[u32::MAX, u32::MAX - 1, beyond, 1 << 20, 8]);
    assert_eq!(kept(&driver), [1, 2, 3, 4, 5, 6, 7]);
    // Messages that are none.
    for message in [(MESSAGE, 3), (u64::MAX - 9, 8), (RAM - 4, 8), (0, 0)] {
        let head = driver.offer_in(queue::INFLATE, &[message], &[]);
        balloon.notify(queue::INFLATE);
        assert_eq!(driver.used_in(queue::INFLATE), [(head, 0)]);
    }
    assert_eq!(kept(&driver), [1, 2, 3, 4, 5, 6, 7]);
    assert!(!driver.needs_reset());
}

#[test]
fn a_message_has_a_limit() {
    let (mut driver, mut balloon) = bench();
    // The last page number is one too far.
    let len = 4 * (MOST_PAGES as u32 + 1);
    driver.ram().fill(0x1_0000, len as usize, 0xff).unwrap();
    driver.ram().write_u32(0x1_0000 + u64::from(len) - 4, 8).unwrap();
    let head = driver.offer_in(queue::INFLATE, &[(0x1_0000, len)], &[]);
    balloon.notify(queue::INFLATE);
    assert_eq!((driver.used_in(queue::INFLATE), kept(&driver).len()), (vec![(head, 0)], 8));
}

#[test]
fn free_pages_go_back_as_far_as_they_are_whole_and_ram() {
    let (mut driver, mut balloon) = bench();
    let whole = (PAGES, 2 * PAGE_SIZE as u32);
    let torn = (PAGES + 3 * PAGE_SIZE - 1, 2 * PAGE_SIZE as u32);
    let wild = (u64::MAX - 8191, 8192);
    let head = driver.offer_in(queue::REPORTING, &[], &[whole, torn, wild]);
    balloon.notify(queue::REPORTING);
    assert_eq!(driver.used_in(queue::REPORTING), [(head, 0)]);
    assert_eq!(kept(&driver), [2, 4, 5, 6, 7]);
    assert_eq!(driver.ram().read_u8(PAGES + 3 * PAGE_SIZE - 1), Ok(0xaa));
}

#[test]
fn the_driver_learns_of_the_target_and_tells_what_it_reached() {
    let (driver, mut balloon) = bench();
    let read = |balloon: &Balloon, offset| {
        let mut bytes = [0xff; 4];
        balloon.read_config(offset, &mut bytes);
        u32::from_le_bytes(bytes)
    };
    balloon.set_target(5 * PAGE_SIZE + 1);
    assert_eq!((balloon.target(), read(&balloon, 0)), (5 * PAGE_SIZE, 5));
    balloon.write_config(4, &3_u32.to_le_bytes());
    balloon.write_config(5, &[1]);
    assert_eq!((balloon.size(), read(&balloon, 4), read(&balloon, 8)), (0x103 * PAGE_SIZE, 0x103, 0));
    // What is not to be written is not, wherever it is.
    balloon.write_config(0, &[9; 3]);
    balloon.write_config(8, &[9; 4]);
    balloon.write_config(u64::MAX, &[9]);
    assert_eq!((read(&balloon, 0), read(&balloon, 4)), (5, 0x103));
    balloon.set_target(u64::MAX);
    assert_eq!(balloon.target(), RAM);
    balloon.reset();
    assert_eq!((balloon.target(), balloon.size()), (RAM, 0));
    assert!(!driver.needs_reset());
}

#[test]
fn statistics_come_when_asked_for() {
    let (mut driver, mut balloon) = bench();
    assert_eq!(balloon.statistics(), None);
    let tell = |driver: &mut Driver, balloon: &mut Balloon, free: u64| {
        driver.ram().write_u16(MESSAGE, 4).unwrap();
        driver.ram().write_u64(MESSAGE + 2, free).unwrap();
        let head = driver.offer_in(queue::STATISTICS, &[(MESSAGE, 10)], &[]);
        balloon.notify(queue::STATISTICS);
        head
    };
    let free = |bytes| Some(Statistics { free: Some(bytes), ..Statistics::default() });
    let first = tell(&mut driver, &mut balloon, 1000);
    assert_eq!(driver.used_in(queue::STATISTICS), []);
    assert_eq!(balloon.statistics(), free(1000));
    assert_eq!(driver.used_in(queue::STATISTICS), [(first, 0)]);
    // Asked for once, however often.
    assert_eq!(balloon.statistics(), free(1000));
    assert_eq!(driver.used_in(queue::STATISTICS), []);
    let second = tell(&mut driver, &mut balloon, 2000);
    // The buffer that the device holds goes with its saved state.
    let mut other = Balloon::new(driver.ram());
    transplant(&balloon, &mut other);
    assert_eq!((other.statistics_head, other.statistics), (Some(second), None));
    // A driver that gives two gets the first back.
    assert_eq!(balloon.statistics(), free(2000));
    assert_eq!(driver.used_in(queue::STATISTICS), [(second, 0)]);
    let third = tell(&mut driver, &mut balloon, 3000);
    tell(&mut driver, &mut balloon, 4000);
    assert_eq!(driver.used_in(queue::STATISTICS), [(third, 0)]);
    // And one that gives nonsense has none.
    driver.offer_in(queue::STATISTICS, &[(u64::MAX - 9, 10)], &[]);
    balloon.notify(queue::STATISTICS);
    assert_eq!(balloon.statistics(), None);
}
