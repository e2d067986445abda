//! Page faults: error codes, addresses, and that an instruction which faults has done nothing, or what it may.

use core::sync::atomic::Ordering::SeqCst;

use crate::probe::{self, ACCERR, FETCH, Fault, MAPERR, PRESENT, RCX, RDI, RSI, RSP, USER, WRITING, expect};
use crate::report::Outcome;
use crate::sys::{self, EXECUTE, NONE, PAGE, READ, WRITE};
use crate::vectors;

const LOAD_UNMAPPED: u64 = USER;
const STORE_UNMAPPED: u64 = USER | WRITING;
const STORE_READ_ONLY: u64 = USER | WRITING | PRESENT;

/// A word of memory that may be no Rust object's.
pub fn peek(address: u64) -> u64 {
    // SAFETY: checks pass addresses that they have mapped.
    unsafe { (address as *const u64).read_unaligned() }
}

pub fn poke(address: u64, value: u64) {
    // SAFETY: checks pass addresses that they have mapped.
    unsafe { (address as *mut u64).write_unaligned(value) }
}

/// Two pages, then one of these rights; the first two read and write.
fn pages_before(protection: u32) -> u64 {
    let base = sys::map(3, READ | WRITE);
    // Present in the page table, so that the fault is one of rights.
    poke(base + 2 * PAGE, 0x1122_3344_5566_7788);
    if protection == NONE {
        sys::unmap(base + 2 * PAGE, 1);
    } else {
        sys::protect(base + 2 * PAGE, 1, protection);
    }
    base
}

pub fn page_faults() -> Outcome {
    probe::start();
    for low in [0, 8, 0xff0] {
        probe!("mov rax, [rdx]", in("rdx") low, out("rax") _);
        expect("load near 0", Fault::page(MAPERR, LOAD_UNMAPPED, low))?;
        probe!("mov byte ptr [rdx], 1", in("rdx") low);
        expect("store near 0", Fault::page(MAPERR, STORE_UNMAPPED, low))?;
    }
    let page = sys::map(1, READ | WRITE);
    poke(page, 5);
    sys::protect(page, 1, READ);
    probe!("mov [rdx + 16], rax", in("rdx") page, in("rax") 1u64);
    expect("store to a read-only page", Fault::page(ACCERR, STORE_READ_ONLY, page + 16))?;
    probe!("add dword ptr [rdx + 4092], 1", in("rdx") page);
    expect("addition to a read-only page", Fault::page(ACCERR, STORE_READ_ONLY, page + 4092))?;
    sys::protect(page, 1, NONE);
    probe!("mov al, [rdx]", in("rdx") page, out("al") _);
    expect("load from a page of no rights", Fault::page(ACCERR, LOAD_UNMAPPED, page))?;
    sys::protect(page, 1, READ | WRITE);
    same!(peek(page), 5, "the page's content after all");
    // Linux tells nobody what of the kernel's is mapped: always as if present.
    let kernel = 0xffff_8880_0000_0000u64;
    probe!("mov rax, [rdx]", in("rdx") kernel, out("rax") _);
    expect("load from the kernel", Fault::page(MAPERR, USER | PRESENT, kernel))?;
    probe!("mov [rdx], rax", in("rdx") kernel, in("rax") 0);
    expect("store to the kernel", Fault::page(MAPERR, USER | PRESENT | WRITING, kernel))?;
    // A condition that does not hold spares the register, not the load.
    let mut kept = 77u64;
    probe!("cmovne rax, [rdx]", in("rdx") 24u64, inout("rax") kept);
    expect("conditional load", Fault::page(MAPERR, LOAD_UNMAPPED, 24))?;
    same!(kept, 77, "the register of the conditional load");
    probe!("prefetcht0 [rdx]", in("rdx") 24u64);
    same!(probe::count(), 0, "a prefetch's faults");
    Ok(())
}

pub fn straddling() -> Outcome {
    probe::start();
    for (protection, code, present) in [(READ, ACCERR, PRESENT), (NONE, MAPERR, 0)] {
        let base = pages_before(protection);
        let edge = base + 2 * PAGE;
        for before in 1..8 {
            poke(edge - 8, 0x0102_0304_0506_0708);
            probe!("mov [rdx], rax", in("rdx") edge - before, in("rax") u64::MAX);
            expect("store over the edge", Fault::page(code, USER | WRITING | present, edge))?;
            same!(peek(edge - 8), 0x0102_0304_0506_0708, "memory before the edge, {before} bytes");
            if protection == NONE {
                let mut kept = 9u64;
                probe!("mov rax, [rdx]", in("rdx") edge - before, inout("rax") kept);
                expect("load over the edge", Fault::page(code, LOAD_UNMAPPED, edge))?;
                same!(kept, 9, "the register of a load over the edge");
            } else {
                let mut loaded = 0u64;
                probe!("mov rax, [rdx]", in("rdx") edge - before, inout("rax") loaded);
                same!(probe::count(), 0, "faults of an allowed load");
                let low = 0x0102_0304_0506_0708u64 >> (64 - 8 * before);
                let high = 0x1122_3344_5566_7788u64 << (8 * before);
                same!(loaded, low | high, "a load over the edge, {before} bytes");
            }
        }
    }
    Ok(())
}

pub fn stack() -> Outcome {
    probe::start();
    // Below the page: nothing. rsp stays where it was.
    let base = sys::map(3, READ | WRITE);
    sys::unmap(base, 1);
    sys::unmap(base + 2 * PAGE, 1);
    let (low, high) = (base + PAGE, base + 2 * PAGE);
    // `probe!` needs the stack where it is; so this is by hand.
    macro_rules! with_rsp {
        ($what:literal, $rsp:expr, $fault:expr, $($instruction:literal),+) => {{
            let rsp: u64 = $rsp;
            probe::reset();
            // SAFETY: rsp is put back before anything uses it; the handler has a stack of its own.
            unsafe {
                core::arch::asm!(
                    "lea rcx, [rip + 3f]",
                    "mov [rip + {resume}], rcx",
                    "lea rcx, [rip + 2f]",
                    "mov [rip + {at}], rcx",
                    "mov r9, rsp",
                    "mov rsp, rdx",
                    "2:",
                    $($instruction,)+
                    "3:",
                    "mov r8, rsp",
                    "mov rsp, r9",
                    resume = sym probe::RESUME,
                    at = sym probe::AT,
                    in("rdx") rsp, in("rax") 48u64, out("rcx") _, out("r8") _, out("r9") _,
                );
            }
            expect($what, $fault)?;
            same!(probe::register(RSP), rsp, "{}: rsp", $what);
        }};
    }
    let below = Fault::page(MAPERR, STORE_UNMAPPED, low - 8);
    with_rsp!("push", low, below, "push rax");
    with_rsp!("push of memory", low, below, "push qword ptr [rsp]");
    with_rsp!("push of an immediate", low, below, "push 7");
    with_rsp!("16-bit push", low, Fault::page(MAPERR, STORE_UNMAPPED, low - 2), "push ax");
    with_rsp!("pushfq", low, below, "pushfq");
    with_rsp!("call", low, below, "call 3f");
    with_rsp!("indirect call", low, below, "call rax");
    with_rsp!("push over the edge", low + 4, Fault::page(MAPERR, STORE_UNMAPPED, low - 4), "push rax");
    let above = Fault::page(MAPERR, LOAD_UNMAPPED, high);
    with_rsp!("pop", high, above, "pop r8");
    with_rsp!("popfq", high, above, "popfq");
    with_rsp!("ret", high, above, "ret");
    with_rsp!("ret that drops", high, above, "ret 16");
    with_rsp!("pop over the edge", high - 4, above, "pop r8");
    with_rsp!("pop to nowhere", low, Fault::page(MAPERR, STORE_UNMAPPED, 48), "pop [rax]");
    with_rsp!("push from nowhere", low + 64, Fault::page(MAPERR, LOAD_UNMAPPED, 48), "push [rax]");
    Ok(())
}

pub fn partial() -> Outcome {
    probe::start();
    let base = pages_before(NONE);
    let edge = base + 2 * PAGE;
    for at in 0..PAGE {
        // SAFETY: within the two pages.
        unsafe { ((base + at) as *mut u8).write(at as u8) };
    }
    // A string instruction has done what came before the fault, and says so in its registers.
    for room in [0, 1, 7, 64, 1000] {
        poke(edge - 8, 0);
        probe::reset();
        // SAFETY: copies from the first page to the end of the second, and on into nothing.
        unsafe {
            core::arch::asm!(
                "lea rax, [rip + 3f]", "mov [rip + {resume}], rax", "lea rax, [rip + 2f]", "mov [rip + {at}], rax",
                "2: rep movsb", "3:",
                resume = sym probe::RESUME, at = sym probe::AT, out("rax") _,
                inout("rcx") 3000u64 => _, inout("rsi") base => _, inout("rdi") edge - room => _,
            );
        }
        expect("rep movsb", Fault::page(MAPERR, STORE_UNMAPPED, edge))?;
        same!(probe::register(RCX), 3000 - room, "rep movsb: rcx");
        same!(probe::register(RSI), base + room, "rep movsb: rsi");
        same!(probe::register(RDI), edge, "rep movsb: rdi");
        for at in 0..room {
            // SAFETY: within the second page.
            let byte = unsafe { ((edge - room + at) as *const u8).read() };
            same!(byte, at as u8, "rep movsb: byte {at} of {room}");
        }
        probe::reset();
        // SAFETY: stores to the end of the second page, and on into nothing.
        unsafe {
            core::arch::asm!(
                "lea rdx, [rip + 3f]", "mov [rip + {resume}], rdx", "lea rdx, [rip + 2f]", "mov [rip + {at}], rdx",
                "2: rep stosq", "3:",
                resume = sym probe::RESUME, at = sym probe::AT, out("rdx") _,
                inout("rcx") 3000u64 => _, in("rax") u64::MAX, inout("rdi") edge - room / 8 * 8 => _,
            );
        }
        expect("rep stosq", Fault::page(MAPERR, STORE_UNMAPPED, edge))?;
        same!(probe::register(RCX), 3000 - room / 8, "rep stosq: rcx");
        same!(probe::register(RDI), edge, "rep stosq: rdi");
    }
    // An access of which the first half is allowed leaves the rest of the instruction undone.
    let mut left = 5u64;
    probe!("xchg rax, [rdx]", in("rdx") edge - 4, inout("rax") left);
    expect("xchg over the edge", Fault::page(MAPERR, STORE_UNMAPPED, edge))?;
    same!(left, 5, "the register of an exchange that faulted");
    let mut left = 5u64;
    probe!("lock xadd [rdx], rax", in("rdx") edge - 4, inout("rax") left);
    expect("xadd over the edge", Fault::page(MAPERR, STORE_UNMAPPED, edge))?;
    same!(left, 5, "the register of an addition that faulted");
    Ok(())
}

pub fn read_modify_write() -> Outcome {
    probe::start();
    let page = sys::map(1, READ | WRITE);
    poke(page, 3);
    sys::protect(page, 1, READ);
    let fault = Fault::page(ACCERR, STORE_READ_ONLY, page);
    probe!("lock add qword ptr [rdx], 1", in("rdx") page);
    expect("lock add", fault)?;
    probe!("xchg rax, [rdx]", in("rdx") page, inout("rax") 1u64 => _);
    expect("xchg", fault)?;
    probe!("lock cmpxchg [rdx], r8", in("rdx") page, in("r8") 8u64, inout("rax") 3u64 => _);
    expect("cmpxchg that succeeds", fault)?;
    let mut kept = 4u64;
    probe!("lock cmpxchg [rdx], r8", in("rdx") page, in("r8") 8u64, inout("rax") kept);
    expect("cmpxchg that fails", fault)?;
    same!(kept, 4, "rax of a cmpxchg that faulted");
    probe!("bts qword ptr [rdx], 0", in("rdx") page);
    expect("bts of a bit that is set", fault)?;
    probe!("bt qword ptr [rdx], 0", in("rdx") page);
    same!(probe::count(), 0, "faults of a bit test");
    probe!("shl qword ptr [rdx], 0", in("rdx") page);
    expect("shift by nothing", fault)?;
    probe!("not qword ptr [rdx]", in("rdx") page);
    expect("not", fault)?;
    same!(peek(page), 3, "the page's content after all");
    Ok(())
}

pub fn fetch() -> Outcome {
    probe::start();
    let page = sys::map(2, READ | WRITE);
    // ret
    poke(page, 0xc3);
    poke(page + PAGE, 0xc3);
    sys::unmap(page + PAGE, 1);
    for (target, code, error) in [
        (64, MAPERR, USER | FETCH),
        (page, ACCERR, USER | FETCH | PRESENT),
        (page + PAGE, MAPERR, USER | FETCH),
    ] {
        probe!("jmp rax", in("rax") target);
        // The jump itself has been done: the frame is the target's.
        same!(probe::register(probe::RIP), target, "fetch: rip");
        probe::AT.store(target, SeqCst);
        expect("fetch", Fault::page(code, error, target))?;
    }
    // An instruction whose second half is not there: nop, then the first bytes of a 10-byte mov.
    sys::protect(page, 1, READ | WRITE | EXECUTE);
    poke(page + PAGE - 8, 0x0000_b848_9090_9090u64 << 16 | 0x9090);
    probe!("jmp rax", in("rax") page + PAGE - 8);
    same!(probe::count(), 1, "signals of a cut instruction");
    let rip = probe::register(probe::RIP);
    same!(rip, page + PAGE - 2, "a cut instruction's rip");
    probe::AT.store(rip, SeqCst);
    expect("cut instruction", Fault::page(MAPERR, USER | FETCH, page + PAGE))
}

pub fn vector() -> Outcome {
    probe::start();
    let base = pages_before(NONE);
    let edge = base + 2 * PAGE;
    probe!("movups xmm0, [rdx]", in("rdx") edge - 8, out("xmm0") _);
    expect("16 bytes over the edge", Fault::page(MAPERR, LOAD_UNMAPPED, edge))?;
    poke(edge - 8, 6);
    probe!("movups [rdx], xmm0", in("rdx") edge - 8, out("xmm0") _);
    expect("16 bytes stored over the edge", Fault::page(MAPERR, STORE_UNMAPPED, edge))?;
    same!(peek(edge - 8), 6, "memory before the edge");
    probe!("fxsave [rdx]", in("rdx") edge - 256);
    same!(probe::count(), 1, "signals of fxsave over the edge");
    if vectors::level() == vectors::Level::Sse {
        return Ok(());
    }
    probe!("vmovups ymm0, [rdx]", in("rdx") edge - 24, out("xmm0") _);
    expect("32 bytes over the edge", Fault::page(MAPERR, LOAD_UNMAPPED, edge))?;
    // Elements masked off are not touched, whatever lies there.
    probe!(
        "vpcmpeqd xmm1, xmm1, xmm1\n vpsrldq xmm1, xmm1, 8\n vmaskmovps xmm0, xmm1, [rdx]",
        in("rdx") edge - 8, out("xmm0") _, out("xmm1") _
    );
    same!(probe::count(), 0, "faults of elements masked off");
    probe!("vpxor xmm1, xmm1, xmm1\n vmaskmovps [rdx], xmm1, xmm0", in("rdx") edge, out("xmm0") _, out("xmm1") _);
    same!(probe::count(), 0, "faults of a store masked off");
    probe!(
        "vpcmpeqd xmm1, xmm1, xmm1\n vmaskmovps [rdx], xmm1, xmm0",
        in("rdx") edge - 8, out("xmm0") _, out("xmm1") _
    );
    same!(probe::count(), 1, "signals of a masked store");
    // AMD's processors name the first byte of the page, Intel's the last that was to be stored there.
    let cr2 = probe::register(probe::CR2);
    ensure!([edge, edge + 7].contains(&cr2), "a masked store's cr2: {cr2:#x}, the page is at {edge:#x}");
    probe::reset();
    // Gathers two elements that are there; the mask spares the two that are not.
    poke(base, 0x0000_0002_0000_0001);
    let mut gathered = [0u32; 4];
    probe!(
        "vpxor xmm0, xmm0, xmm0\n vpcmpeqd xmm1, xmm1, xmm1\n vpsrldq xmm1, xmm1, 8\n\
         mov eax, 1\n vmovd xmm2, eax\n vpslldq xmm2, xmm2, 4\n\
         vpgatherdd xmm0, [rdx + xmm2 * 4], xmm1\n vmovdqu [r8], xmm0",
        in("rdx") base, in("r8") &raw mut gathered, out("rax") _, out("xmm0") _, out("xmm1") _, out("xmm2") _
    );
    same!(probe::count(), 0, "faults of a gather");
    ensure!(gathered == [1, 2, 0, 0], "gathered {gathered:?}");
    probe!("vzeroupper");
    Ok(())
}
