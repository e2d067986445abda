//! Pages that are entered into the software TLB again when their address space comes back.

use x86::paging::{self, Access, AccessKind, PagingContext};

use super::{Page, Tlb};
use crate::mode::{VIEW_KERNEL_AC, VIEW_USER, View};
use crate::region::Region;
use crate::spaces::Known;
use crate::windows::Tables;

/// Linear addresses of pages, and whose.
#[derive(Default)]
pub struct Pages(Vec<(View, u64)>);

impl Known for Pages {
    const MOST: usize = 64;
    const MOST_OF_ALL: usize = 1 << 17;

    fn len(&self) -> usize {
        self.0.len()
    }
}

impl Pages {
    /// Takes note of a page that has been entered.
    pub fn note(&mut self, view: View, linear: u64) {
        if !self.0.contains(&(view, linear)) {
            self.0.push((view, linear));
        }
    }
}

impl Tlb {
    /// Enters the pages again that were known of this address space, unless it has been current ever since; as far as the tables
    /// have them now with their accessed bits set, and for writing if the dirty bit is, so that nothing has to be
    /// marked.
    pub fn enter_space(&mut self, region: &mut Region, tables: Tables) {
        let Some(mut pages) = self.spaces.returned(tables.paging.cr3) else { return };
        pages.0.retain(|&(view, linear)| {
            let page = find(tables, view, linear);
            page.inspect(|page| self.fill(region, tables, view, *page)).is_some()
        });
        self.spaces.enter(pages);
    }
}

fn find(tables: Tables, view: View, linear: u64) -> Option<Page> {
    let paging = PagingContext { ac: view == VIEW_KERNEL_AC, ..*tables.paging };
    let access = Access::explicit(AccessKind::Read, view == VIEW_USER);
    let found = paging::probe(&paging, tables.guest, linear, access).ok()?;
    let host = tables.guest.host_page(found.physical)?;
    (found.accessed && !found.global).then(|| Page {
        linear,
        physical: found.physical & !0xfff,
        host,
        readable: found.readable,
        writable: found.writable && tables.guest.admits_writes(found.physical),
        global: false,
        size: found.size,
    })
}
