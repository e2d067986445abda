//! Descriptor tables, page tables and the model-specific registers of SYSCALL: memory as a kernel has it.

use core::arch::asm;
use core::cell::UnsafeCell;

use crate::handlers as on;
use crate::machine::{out, read, store, write};
use crate::ring0;
use crate::ring3::{r3_end, r3_leave, r3_start};

/// Where ring 3's part of linear memory begins.
const USER: u64 = 0x80_0000_0000;
/// Its stack's page lies behind its code.
const STACK: u64 = USER + 0x10_0000;
/// Pages to touch: those of one page table.
pub const FAULTS: u64 = USER + 0x20_0000;
pub const FAULT_PAGES: u64 = 512;
/// A page whose entry is changed: ring 0's, in the same table as ring 3's code.
const PROBE: u64 = USER + 0x18_0000;

const PRESENT: u64 = 1;
const WRITABLE: u64 = 2;
const FOR_USER: u64 = 4;
const GLOBAL: u64 = 1 << 8;
const TABLE: u64 = PRESENT | WRITABLE | FOR_USER;

#[repr(C, align(4096))]
pub struct Page(UnsafeCell<[u64; 512]>);

// SAFETY: there is one processor, and what is in pages is accessed by address.
unsafe impl Sync for Page {}

impl Page {
    const fn new() -> Self {
        Self(UnsafeCell::new([0; 512]))
    }

    /// Linear and physical are the same here.
    fn address(&self) -> u64 {
        self.0.get() as u64
    }
}

static DIRECTORIES: Page = Page::new();
static DIRECTORY: Page = Page::new();
static TABLE_OF_CODE: Page = Page::new();
/// The table of [`FAULTS`].
pub static FAULT_TABLE: Page = Page::new();
static FRAMES: [Page; 2] = [Page::new(), Page::new()];
static USER_STACK: Page = Page::new();
/// In the first word, what [`FAULT_TABLE`]'s entries become.
pub static FAULT_ENTRY: Page = Page::new();
/// Descriptors, the task state segment behind them, and the interrupt table.
static DESCRIPTORS: Page = Page::new();
static INTERRUPTS: Page = Page::new();
static INTERRUPT_STACK: [Page; 4] = [const { Page::new() }; 4];
/// In the first word, the sum of what was read.
static SUM: Page = Page::new();

/// Everything, once.
pub fn set_up() {
    set_up_pages();
    set_up_descriptors();
    set_up_interrupts();
    // SYSCALL: IA32_EFER.SCE, STAR, LSTAR, and the SFMASK that Linux has.
    write_msr(0xc000_0080, 0x501);
    write_msr(0xc000_0081, 0x1b << 48 | 0x08 << 32);
    write_msr(0xc000_0082, on::on_syscall as *const () as u64);
    write_msr(0xc000_0084, 0x25_7fd5);
    // The two 8259 with all lines masked; the local APIC enabled, with 0xff for what is spurious.
    out(0x21, 1, 0xff);
    out(0xa1, 1, 0xff);
    write(0xfee0_00f0, 4, 0x1ff);
}

fn set_up_pages() {
    let root = cr3();
    // The first 4 GiB, which are in 2 MiB pages, are global from here on.
    for gigabyte in 0..4 {
        let directory = read(read(root, 8) & !0xfff, 8) & !0xfff;
        let directory = directory + gigabyte * 4096;
        for at in (0..4096).step_by(8) {
            store(directory + at, read(directory + at, 8) | GLOBAL);
        }
    }
    store(root + 8, DIRECTORIES.address() | TABLE);
    store(DIRECTORIES.address(), DIRECTORY.address() | TABLE);
    store(DIRECTORY.address(), TABLE_OF_CODE.address() | TABLE);
    store(DIRECTORY.address() + 8, FAULT_TABLE.address() | TABLE);
    let (start, end) = (r3_start as *const () as u64, r3_end as *const () as u64);
    for page in (0..end - start).step_by(4096) {
        store(entry_of(USER + page), start + page | PRESENT | FOR_USER);
    }
    store(entry_of(STACK), USER_STACK.address() | TABLE);
    store(FAULT_ENTRY.address(), FRAMES[0].address() | TABLE);
    for (number, frame) in FRAMES.iter().enumerate() {
        store(frame.address(), number as u64 + 1);
    }
    // SAFETY: the mappings in use are as before; CR4.PGE makes the first ones outlive writes of CR3.
    unsafe { asm!("mov {0}, cr4", "or {0}, 0x80", "mov cr4, {0}", out(reg) _, options(nostack)) };
    set_cr3(root);
}

/// The entry in the table of ring 3's code.
fn entry_of(address: u64) -> u64 {
    TABLE_OF_CODE.address() + (address - USER) / 4096 * 8
}

fn set_up_descriptors() {
    let gdt = DESCRIPTORS.address();
    let tss = gdt + 0x800;
    let stack = INTERRUPT_STACK.as_ptr_range().end as u64;
    // The stack pointer of ring 0; the offset of the I/O bitmap is beyond the limit.
    store(tss + 4, stack);
    write(tss + 102, 2, 104);
    let descriptors = [
        0,
        0x00af_9b00_0000_ffff,
        0x00cf_9300_0000_ffff,
        // Where SYSRET would find 32-bit code.
        0x00cf_fb00_0000_ffff,
        0x00cf_f300_0000_ffff,
        0x00af_fb00_0000_ffff,
        103 | (tss & 0xff_ffff) << 16 | 0x89 << 40 | (tss >> 24 & 0xff) << 56,
        tss >> 32,
    ];
    for (number, descriptor) in (0_u64..).zip(descriptors) {
        store(gdt + 8 * number, descriptor);
    }
    let pointer = pointer(gdt, 63);
    // SAFETY: the code and data segments in use have the same selectors and kinds as before.
    unsafe {
        asm!("lgdt [{}]", "mov ax, 0x30", "ltr ax", in(reg) &raw const pointer, out("ax") _, options(nostack));
    }
}

fn set_up_interrupts() {
    for vector in 0..256 {
        gate(vector, on::on_other as *const (), 0);
    }
    gate(0, on::on_divide as *const (), 0);
    gate(14, on::on_page_fault as *const (), 0);
    gate(0x40, on::on_ipi as *const (), 0);
    gate(0x41, on::on_timer as *const (), 0);
    gate(0x80, on::on_leave as *const (), 3);
    gate(0x81, on::on_software as *const (), 3);
    gate(0xff, on::on_spurious as *const (), 0);
    let pointer = pointer(INTERRUPTS.address(), 0xfff);
    // SAFETY: the table is complete, and stays.
    unsafe { asm!("lidt [{}]", in(reg) &raw const pointer, options(readonly, nostack)) };
}

/// An interrupt gate through selector 8, for callers of this ring and those within.
fn gate(vector: u64, handler: *const (), ring: u64) {
    let (at, handler) = (INTERRUPTS.address() + 16 * vector, handler as u64);
    store(at, handler & 0xffff | 8 << 16 | (0x8e00 | ring << 13) << 32 | (handler & 0xffff_0000) << 32);
    store(at + 8, handler >> 32);
}

fn pointer(base: u64, limit: u16) -> [u8; 10] {
    let mut bytes = [0; 10];
    bytes[..2].copy_from_slice(&limit.to_le_bytes());
    bytes[2..].copy_from_slice(&base.to_le_bytes());
    bytes
}

fn write_msr(number: u32, value: u64) {
    // SAFETY: the registers of SYSCALL, and EFER with the bits it has.
    unsafe {
        asm!("wrmsr", in("ecx") number, in("eax") value as u32, in("edx") (value >> 32) as u32, options(nostack));
    }
}

fn cr3() -> u64 {
    let value;
    // SAFETY: it is only read.
    unsafe { asm!("mov {}, cr3", out(reg) value, options(nomem, nostack)) };
    value
}

fn set_cr3(value: u64) {
    // SAFETY: it is the value that is there.
    unsafe { asm!("mov cr3, {}", in(reg) value, options(nostack)) };
}

/// Where ring 3 has a routine of `ring3`.
pub fn user_address(routine: *const ()) -> u64 {
    routine as u64 - r3_start as *const () as u64 + USER
}

/// A stack pointer of ring 3's whose word is where a routine returns to.
pub fn user_stack() -> u64 {
    let offset = 4096 - 64;
    store(USER_STACK.address() + offset, user_address(r3_leave as *const ()));
    STACK + offset
}

/// None of the pages to touch is there.
pub fn empty_fault_pages() {
    for page in 0..FAULT_PAGES {
        store(FAULT_TABLE.address() + 8 * page, 0);
    }
    set_cr3(cr3());
}

type EntryRoutine = unsafe extern "C" fn(u64, u64, u64, u64, u64, *mut u64) -> u64;

/// Has a routine lead one page to two frames in turns.
pub fn write_entries(routine: EntryRoutine, iterations: u64) -> u64 {
    let [first, second] = [0, 1].map(|n: usize| FRAMES[n].address() | PRESENT | WRITABLE);
    // SAFETY: the entry is that of a page that nothing else touches.
    unsafe { routine(iterations, entry_of(PROBE), PROBE, first, second, SUM.address() as *mut u64) }
}

/// Whether `r0_remap` has read each frame's number in turns.
pub fn touched(iterations: u64) -> bool {
    read(SUM.address(), 8) == crate::BATCHES as u64 * (iterations / 2) * 3
}

/// Whether a write of CR3 makes the processor forget an entry.
pub fn cr3_forgets() -> bool {
    let seen = FRAMES.each_ref().map(|frame| {
        store(entry_of(PROBE), frame.address() | PRESENT | WRITABLE);
        // One iteration.
        // SAFETY: CR3 is given what is there.
        unsafe { ring0::r0_cr3(1) };
        read(PROBE, 8)
    });
    seen == [1, 2]
}

/// Interrupts are let in until one has come.
pub fn halt() {
    // SAFETY: handlers keep registers; below the red zone.
    unsafe { asm!("sub rsp, 128", "sti", "hlt", "cli", "add rsp, 128") };
}
