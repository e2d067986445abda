//! Guest memory as a debugger reaches it: by linear address through the guest's page tables, which stay as they are,
//! or by physical address. Devices are not asked, and rights to pages do not matter.

use board::yard::Halted;
use x86::paging::{self, Access, AccessKind, PagingContext};

const PAGE: u64 = 4096;

/// What an address stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    /// Linear, as the processor's page tables have it.
    Linear,
    /// Guest-physical.
    Physical,
}

/// Where the byte at a linear address is.
pub fn translate(halted: &Halted, linear: u64) -> Option<u64> {
    let cpu = halted.cpu();
    let mut context =
        PagingContext::new(cpu.cr0, cpu.cr3, cpu.cr4, cpu.efer, cpu.rflags, halted.physical_bits());
    // A supervisor that nothing is hidden from.
    (context.smap, context.wp) = (false, false);
    if cpu.efer.contains(x86::Efer::LMA) && !paging::is_canonical(linear, cpu.cr4.contains(x86::Cr4::LA57)) {
        return None;
    }
    let access = Access::explicit(AccessKind::Read, false);
    paging::probe(&context, halted.tables(), linear, access).ok().map(|found| found.physical)
}

/// The pieces of a range that lie in one page each, with where each is; the first that is nowhere ends them.
fn pieces(
    halted: &Halted,
    space: Space,
    address: u64,
    len: usize,
) -> impl Iterator<Item = (u64, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let at = address.checked_add(done as u64).filter(|_| done < len)?;
        let physical = match space {
            Space::Linear => translate(halted, at)?,
            Space::Physical => at,
        };
        let part = done..len.min(done + (PAGE - at % PAGE) as usize);
        done = part.end;
        Some((physical, part))
    })
}

/// Reads as much of a range as there is memory from its start on, and says how much.
pub fn read(halted: &Halted, space: Space, address: u64, data: &mut [u8]) -> usize {
    let mut read = 0;
    for (physical, part) in pieces(halted, space, address, data.len()) {
        let end = part.end;
        if !halted.read(physical, &mut data[part]) {
            break;
        }
        read = end;
    }
    read
}

/// Writes all of a range, or nothing if a part of it is not there.
pub fn write(halted: &mut Halted, space: Space, address: u64, data: &[u8]) -> bool {
    // What can be read can be written: both is RAM.
    if read(halted, space, address, &mut vec![0; data.len()]) < data.len() {
        return false;
    }
    let pieces: Vec<_> = pieces(halted, space, address, data.len()).collect();
    pieces.into_iter().all(|(physical, part)| halted.write(physical, &data[part]))
}
