//! Page tables that change: no access uses a translation that is no more.

use crate::faults::{peek, poke};
use crate::probe::{self, ACCERR, Fault, MAPERR, PRESENT, USER, WRITING, expect};
use crate::report::Outcome;
use crate::sys::{self, EXECUTE, NONE, PAGE, READ, WRITE};

pub fn protection() -> Outcome {
    probe::start();
    let page = sys::map(1, READ | WRITE);
    for round in 0..300 {
        sys::protect(page, 1, READ | WRITE);
        probe!("mov [rdx], rax", in("rdx") page, in("rax") round);
        same!(probe::count(), 0, "faults of an allowed store");
        sys::protect(page, 1, READ);
        probe!("mov [rdx], rax", in("rdx") page, in("rax") !0u64);
        expect("store after it was forbidden", Fault::page(ACCERR, USER | WRITING | PRESENT, page))?;
        same!(peek(page), round, "the page's content");
        sys::protect(page, 1, NONE);
        probe!("mov rax, [rdx]", in("rdx") page, out("rax") _);
        expect("load after it was forbidden", Fault::page(ACCERR, USER, page))?;
    }
    Ok(())
}

pub fn unmapped() -> Outcome {
    probe::start();
    let area = sys::map(64, READ | WRITE);
    for round in 0..20 {
        for page in 0..64 {
            poke(area + page * PAGE, page + round);
        }
        for page in (0..64).step_by(2) {
            sys::unmap(area + page * PAGE, 1);
        }
        for page in 0..64 {
            let address = area + page * PAGE;
            let mut value = 0u64;
            probe!("mov rax, [rdx]", in("rdx") address, inout("rax") value);
            if page % 2 == 0 {
                expect("load from what was unmapped", Fault::page(MAPERR, USER, address))?;
                sys::map_at(address, 1, READ | WRITE);
                same!(peek(address), 0, "a page mapped anew");
            } else {
                same!(probe::count(), 0, "faults of a page that stayed");
                same!(value, page + round, "a page that stayed");
            }
        }
    }
    Ok(())
}

pub fn moved() -> Outcome {
    probe::start();
    let area = sys::map(4, READ | WRITE);
    let (mut here, mut there) = (area, area + 2 * PAGE);
    sys::unmap(there, 2);
    poke(here, 1);
    poke(here + PAGE, 2);
    for round in 0..300 {
        sys::remap_to(here, 2, there);
        same!(peek(there), 1 + round, "the first page where it went");
        same!(peek(there + PAGE), 2 + round, "the second page where it went");
        probe!("mov rax, [rdx]", in("rdx") here, out("rax") _);
        expect("load from where it was", Fault::page(MAPERR, USER, here))?;
        poke(there, 2 + round);
        poke(there + PAGE, 3 + round);
        (here, there) = (there, here);
    }
    Ok(())
}

pub fn replaced() -> Outcome {
    let page = sys::map(1, READ | WRITE);
    for round in 1..300 {
        poke(page, round);
        sys::discard(page, 1);
        same!(peek(page), 0, "a page given up");
        poke(page, round);
        sys::map_at(page, 1, READ | WRITE);
        same!(peek(page), 0, "a page mapped over");
    }
    let file = sys::memory_file(8);
    let all = sys::map_file(file, 0, 8, READ | WRITE);
    for number in 0..8 {
        poke(all + number * PAGE, 500 + number);
    }
    for round in 0..400 {
        let number = round * 5 % 8;
        sys::map_file_at(page, file, number, 1, READ | WRITE);
        same!(peek(page), 500 + number, "page {number} of a file, round {round}");
    }
    Ok(())
}

pub fn checksums() -> Outcome {
    const PAGES: u64 = 8192;
    let area = sys::map(PAGES, READ | WRITE);
    let stamp = |page: u64, word: u64| (page << 32 | word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    for page in 0..PAGES {
        for word in (0..512).step_by(37) {
            poke(area + page * PAGE + word * 8, stamp(page, word));
        }
    }
    // In an order that meets every page, but no two neighbours.
    for number in 0..PAGES {
        let page = number * 2741 % PAGES;
        for word in 0..512 {
            let expected = if word % 37 == 0 { stamp(page, word) } else { 0 };
            same!(peek(area + page * PAGE + word * 8), expected, "word {word} of page {page}");
        }
    }
    Ok(())
}

/// One page at many addresses.
pub fn aliases() -> Outcome {
    let file = sys::memory_file(1);
    let mut maps = [0; 64];
    for map in &mut maps {
        *map = sys::map_file(file, 0, 1, READ | WRITE);
    }
    for (number, map) in maps.into_iter().enumerate() {
        let number = number as u64;
        poke(map + 8 * number, number + 1);
        for other in maps {
            same!(peek(other + 8 * number), number + 1, "what alias {number} wrote");
        }
    }
    Ok(())
}

/// Beyond what four levels of tables reach.
const HIGH: u64 = 0x00ab_5678_9abc_d000;

/// Where tables have four levels, an address beyond them is not canonical.
pub fn four_levels() -> Outcome {
    probe::start();
    if sys::map_near(HIGH, 1, READ) == HIGH {
        skip!("tables have five levels");
    }
    for address in [1 << 47, (1 << 47) - 4, HIGH] {
        probe!("mov rax, [rdx]", in("rdx") address, out("rax") _);
        expect("load from beyond four levels", Fault::protection(0))?;
    }
    Ok(())
}

/// Where they have five, it is an address like others.
pub fn five_levels() -> Outcome {
    probe::start();
    let area = sys::map_near(HIGH, 2, READ | WRITE | EXECUTE);
    if area != HIGH {
        skip!("tables have four levels");
    }
    let middle = area + PAGE;
    poke(middle - 4, 0x1122_3344_5566_7788);
    same!(peek(middle), 0x1122_3344, "a word across pages");
    let (popped, top): (u64, u64);
    // SAFETY: the stack is put back at once, and signals have their own.
    unsafe {
        core::arch::asm!(
            "mov {kept}, rsp", "mov rsp, {stack}", "push 77", "call 2f", "2: pop {popped}", "pop {popped}",
            "mov {top}, rsp", "mov rsp, {kept}",
            kept = out(reg) _, stack = in(reg) middle, popped = out(reg) popped, top = out(reg) top,
        );
    }
    same!(popped, 77, "what a stack up there held");
    same!(top, middle, "its pointer");
    // mov eax, edi; inc eax; ret; across the two pages.
    for (n, byte) in [0x89, 0xf8, 0xff, 0xc0, 0xc3].into_iter().enumerate() {
        // SAFETY: mapped above.
        unsafe { ((middle - 2) as *mut u8).add(n).write(byte) };
    }
    // SAFETY: the code just written.
    let increment = unsafe { core::mem::transmute::<u64, extern "C" fn(u32) -> u32>(middle - 2) };
    same!(increment(41), 42, "code up there");
    let behind = area + 2 * PAGE;
    for address in [1 << 47, behind] {
        probe!("mov rax, [rdx]", in("rdx") address, out("rax") _);
        expect("load from where nothing is", Fault::page(MAPERR, USER, address))?;
    }
    probe!("mov [rdx], rax", in("rdx") behind - 4, in("rax") 0);
    expect("store that ends there", Fault::page(MAPERR, USER | WRITING, behind))?;
    probe!("mov rax, [rdx]", in("rdx") (1u64 << 56) - 4, out("rax") _);
    expect("load that ends beyond five levels", Fault::protection(0))?;
    sys::unmap(area, 2);
    probe!("mov rax, [rdx]", in("rdx") area, out("rax") _);
    expect("load after it was unmapped", Fault::page(MAPERR, USER, area))
}

pub fn copy_on_write() -> Outcome {
    const PAGES: u64 = 128;
    let area = sys::map(PAGES, READ | WRITE);
    let shared_file = sys::memory_file(1);
    let shared = sys::map_file(shared_file, 0, 1, READ | WRITE);
    let all = |value: u64| (0..PAGES).all(|page| peek(area + page * PAGE) == value + page);
    let fill = |value: u64| (0..PAGES).for_each(|page| poke(area + page * PAGE, value + page));
    for round in 0..20 {
        fill(1000 * round);
        poke(shared, 0);
        let child = sys::fork();
        if child == 0 {
            let mut good = all(1000 * round);
            fill(77);
            sys::yield_now();
            good &= all(77);
            let grandchild = sys::fork();
            if grandchild == 0 {
                let good = all(77);
                fill(78);
                sys::exit(!(good && all(78)) as i32);
            }
            good &= sys::wait(grandchild) == Some(0) && all(77);
            poke(shared, 5 + round);
            sys::exit(!good as i32);
        }
        ensure!(all(1000 * round), "the parent's pages change with the child's, round {round}");
        sys::yield_now();
        fill(1000 * round + 500);
        let status = sys::wait(child);
        ensure!(status == Some(0), "the child's status in round {round}: {status:?}");
        ensure!(all(1000 * round + 500), "the parent's pages after the child's end, round {round}");
        same!(peek(shared), 5 + round, "a shared page");
    }
    Ok(())
}
