//! One request (5.2.6): what it asks for, and how far it has come.

use super::{BlockConfig, CHUNK, MOST_DISCARD, MOST_RANGES, MOST_ZEROES, Operation, SECTOR, Status};
use crate::virtio::Chain;

/// Types.
mod kind {
    pub const IN: u32 = 0;
    pub const OUT: u32 = 1;
    pub const FLUSH: u32 = 4;
    pub const GET_ID: u32 = 8;
    pub const DISCARD: u32 = 11;
    pub const WRITE_ZEROES: u32 = 13;
}

/// Of a segment's flags.
const UNMAP: u32 = 1;
/// Bytes of struct virtio_blk_discard_write_zeroes.
const RANGE: u32 = 16;

/// What comes next.
pub(super) enum Step {
    Submit(Operation),
    Finish(Status),
}

/// A part of the disk, in bytes.
#[derive(Clone, Copy)]
struct Range {
    offset: u64,
    len: u64,
    unmap: bool,
}

/// What is left to do.
enum Work {
    /// Reading or writing so many bytes from the offset on.
    Read(u64, u32),
    Write(u64, u32),
    /// Ranges, the next one last.
    Discard(Vec<Range>),
    WriteZeroes(Vec<Range>),
    /// Nothing but to have it on stable storage, or not even that.
    Flush,
    Nothing,
}

/// A request that has been taken out of its queue.
pub(super) struct Request {
    queue: u16,
    chain: Chain,
    /// Where the status goes, counted in bytes that can be written; none if there are none.
    status_at: Option<u32>,
    work: Work,
    /// After the last change, a flush.
    write_through: bool,
}

impl Request {
    /// Looks at what the driver wants.
    pub(super) fn start(queue: u16, chain: Chain, disk: &BlockConfig, write_through: bool) -> (Self, Step) {
        let status_at = chain.writable().checked_sub(1);
        let mut request = Self { queue, chain, status_at, work: Work::Nothing, write_through };
        let step = match request.read_header(disk) {
            Ok(work) => {
                request.work = work;
                request.next()
            }
            Err(status) => Step::Finish(status),
        };
        (request, step)
    }

    fn read_header(&mut self, disk: &BlockConfig) -> Result<Work, Status> {
        let header: [u8; 16] = self.chain.read_array().map_err(|_| Status::IoErr)?;
        // Without room for a status there is no way to answer: nothing is done.
        let room = self.status_at.ok_or(Status::IoErr)?;
        let (kind, sector) = (le32(&header, 0), le64(&header, 8));
        if disk.read_only && matches!(kind, kind::OUT | kind::DISCARD | kind::WRITE_ZEROES) {
            return Err(Status::IoErr);
        }
        match kind {
            kind::IN => Ok(Work::Read(check(disk, sector, room)?, room)),
            kind::OUT => {
                let len = self.chain.readable();
                Ok(Work::Write(check(disk, sector, len)?, len))
            }
            kind::FLUSH => Ok(Work::Flush),
            kind::GET_ID => {
                let serial = &disk.serial[..disk.serial.len().min(room as usize)];
                self.chain.write(serial).map_err(|_| Status::IoErr)?;
                Ok(Work::Nothing)
            }
            kind::DISCARD => Ok(Work::Discard(self.read_ranges(disk, MOST_DISCARD, 0)?)),
            kind::WRITE_ZEROES => Ok(Work::WriteZeroes(self.read_ranges(disk, MOST_ZEROES, UNMAP)?)),
            _ => Err(Status::Unsupp),
        }
    }

    fn read_ranges(&mut self, disk: &BlockConfig, most: u32, flags: u32) -> Result<Vec<Range>, Status> {
        let bytes = self.chain.readable();
        if !bytes.is_multiple_of(RANGE) || !(1..=MOST_RANGES).contains(&(bytes / RANGE)) {
            return Err(Status::IoErr);
        }
        let mut ranges = Vec::new();
        for _ in 0..bytes / RANGE {
            let range: [u8; RANGE as usize] = self.chain.read_array().map_err(|_| Status::IoErr)?;
            let (sector, sectors, given) = (le64(&range, 0), le32(&range, 8), le32(&range, 12));
            if given & !flags != 0 {
                return Err(Status::Unsupp);
            }
            let end = sector.checked_add(sectors.into());
            if sectors > most || end.is_none_or(|end| end > disk.capacity) {
                return Err(Status::IoErr);
            }
            if sectors > 0 {
                let (offset, len) = (sector * SECTOR, u64::from(sectors) * SECTOR);
                ranges.push(Range { offset, len, unmap: given & UNMAP != 0 });
            }
        }
        ranges.reverse();
        Ok(ranges)
    }

    /// Takes the back-end's answer to the last step.
    pub(super) fn advance(&mut self, answer: super::Answer) -> Step {
        let Some(buffer) = answer else { return Step::Finish(Status::IoErr) };
        if let Work::Read(..) = self.work
            && self.chain.write(&buffer).is_err()
        {
            return Step::Finish(Status::IoErr);
        }
        self.next()
    }

    /// Takes a piece of the work.
    fn next(&mut self) -> Step {
        let operation = match &mut self.work {
            Work::Read(offset, left @ 1..) => {
                let (offset, len) = take(offset, left);
                Operation::Read { offset, buffer: vec![0; len] }
            }
            Work::Write(offset, left @ 1..) => {
                let (offset, len) = take(offset, left);
                let mut buffer = vec![0; len];
                if self.chain.read(&mut buffer).is_err() {
                    return Step::Finish(Status::IoErr);
                }
                Operation::Write { offset, buffer }
            }
            Work::Discard(ranges) if !ranges.is_empty() => {
                let Range { offset, len, .. } = ranges.pop().expect("it is not empty");
                Operation::Discard { offset, len }
            }
            Work::WriteZeroes(ranges) if !ranges.is_empty() => {
                let Range { offset, len, unmap } = ranges.pop().expect("it is not empty");
                Operation::WriteZeroes { offset, len, unmap }
            }
            Work::Write(..) | Work::Discard(_) | Work::WriteZeroes(_) if self.write_through => {
                self.work = Work::Nothing;
                Operation::Flush
            }
            Work::Flush => {
                self.work = Work::Nothing;
                Operation::Flush
            }
            _ => return Step::Finish(Status::Ok),
        };
        Step::Submit(operation)
    }

    /// Puts the status where it belongs. Gives back the queue, the chain, and how many bytes of it are written.
    pub(super) fn finish(mut self, status: Status) -> (u16, Chain, u32) {
        let left_out = self.chain.writable().saturating_sub(1) as usize;
        let told = self.status_at.is_some()
            && self.chain.skip_writable(left_out).is_ok()
            && self.chain.write(&[status as u8]).is_ok();
        let written = if told { self.status_at.map_or(0, |at| at + 1) } else { 0 };
        (self.queue, self.chain, written)
    }
}

/// A transfer lies within the disk; where it begins, in bytes.
fn check(disk: &BlockConfig, sector: u64, len: u32) -> Result<u64, Status> {
    let sectors = u64::from(len) / SECTOR;
    let end = sector.checked_add(sectors);
    if u64::from(len).is_multiple_of(SECTOR) && end.is_some_and(|end| end <= disk.capacity) {
        Ok(sector * SECTOR)
    } else {
        Err(Status::IoErr)
    }
}

/// The next piece of a transfer.
fn take(offset: &mut u64, left: &mut u32) -> (u64, usize) {
    let (from, len) = (*offset, (*left).min(CHUNK));
    *offset += u64::from(len);
    *left -= len;
    (from, len as usize)
}

fn le32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn le64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}
