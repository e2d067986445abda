//! The balloon.
//!
//! Its target is no more than there is, and statistics are there only after the driver has given some.

use std::sync::{Arc, Mutex};

use devices::virtio::balloon::Balloon;
use devices::wiring::lock;
use memory::{GuestRam, PAGE_SIZE};

use super::{Arm, Host};
use crate::driver::{BUFFERS, Driver, RAM};
use crate::input::Input;

/// Numbers of the queues (5.5.2).
const STATISTICS: u16 = 2;
const REPORTING: u16 = 3;
/// Where lists of pages and statistics are, and pages that may go.
const LIST: u64 = 0x1_0000;
const PAGES: u64 = BUFFERS;

struct Operator(Arc<Mutex<Balloon>>);

impl Host for Operator {
    fn act(&mut self, input: &mut Input) {
        let mut balloon = lock(&self.0);
        match input.byte() % 3 {
            0 => {
                let wanted = input.word();
                balloon.set_target(wanted);
                assert_eq!(balloon.target(), wanted.min(RAM) / PAGE_SIZE * PAGE_SIZE);
            }
            1 => assert!(balloon.size().is_multiple_of(PAGE_SIZE)),
            _ => {
                // To ask twice is no harm.
                let first = balloon.statistics();
                assert_eq!(balloon.statistics().is_some(), first.is_some());
            }
        }
    }

    fn request(&mut self, driver: &mut Driver, input: &mut Input) -> u16 {
        let kind = input.byte();
        match kind % 6 {
            // Inflate, inflate, deflate: page numbers.
            queue @ 0..=2 => {
                let count = u64::from(input.byte());
                let first = PAGES / PAGE_SIZE + u64::from(kind >> 3);
                for number in 0..count.max(1) {
                    driver.ram.write_u32(LIST + 4 * number, (first + number) as u32).expect("it is RAM");
                }
                if kind & 0x40 != 0 {
                    driver.ram.write_u32(LIST, input.word() as u32).expect("it is RAM");
                }
                let queue = u16::from(queue / 2);
                driver.ram.write(PAGES, &[1]).expect("it is RAM");
                driver.offer(queue, &[(LIST, 4 * count as u32)], &[]);
                queue
            }
            3 | 4 => {
                driver.ram.write(LIST, input.bytes(20)).expect("it is RAM");
                let length = input.choose(&[100, 10, 9, 400]);
                driver.offer(STATISTICS, &[(LIST, length)], &[]);
                STATISTICS
            }
            _ => {
                let (one, other) = (u64::from(input.byte()), u64::from(input.byte()));
                let buffers = [one, other].map(|page| (PAGES + page * 0x800, 0x800 * page as u32));
                driver.offer(REPORTING, &[], &buffers);
                REPORTING
            }
        }
    }

    fn settle(&mut self) {}
}

pub(super) fn balloon(ram: &GuestRam, _: u8) -> Arm {
    let balloon = Arc::new(Mutex::new(Balloon::new(ram)));
    Arm::with_state(&balloon, Operator(balloon.clone()))
}
