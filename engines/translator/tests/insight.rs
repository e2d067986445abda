//! What the engine shows of its insides.

mod common;

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use common::{Bench, CODE, DATA};
use host::sampling::Thread;
use iced_x86::code_asm::*;
use vcpu::{Engine as _, Entry, Exit, Sighting};

#[test]
fn a_block_is_shown_beside_its_code_with_reasons() {
    let mut bench = Bench::long_mode();
    bench.load(|a| {
        a.mov(rbx, DATA).unwrap();
        a.mov(rax, 0x1234_5678u64).unwrap();
        a.mov(qword_ptr(rbx), rax).unwrap();
        a.mov(r9, 3u64).unwrap();
        a.cli().unwrap();
        a.cpuid().unwrap();
    });
    assert!(bench.engine.blocks_at(CODE).is_empty(), "nothing has run yet");
    assert!(matches!(bench.exit(), Exit::Sensitive(_)));
    let blocks = bench.engine.blocks_at(CODE);
    assert_eq!(blocks.len(), 1);
    let block = &blocks[0];
    assert_eq!((block.rip, block.bits, block.omitted), (CODE, 64, 0));
    assert!(block.circumstances.contains("ring 0"), "{}", block.circumstances);
    let pieces: Vec<_> = block.pieces.iter().filter(|piece| !piece.guest.is_empty()).collect();
    let reasons: Vec<_> = pieces.iter().map(|piece| piece.reason.as_str()).collect();
    assert_eq!(reasons.len(), 6, "{reasons:?}");
    assert_eq!((reasons[0], reasons[1]), ("", ""));
    assert_eq!(pieces[1].guest, pieces[1].host);
    assert!(reasons[2].contains("software TLB"), "{reasons:?}");
    assert!(reasons[3].contains("r9"), "{reasons:?}");
    assert!(reasons[4].contains("Cli") && reasons[4].contains("inline"), "{reasons:?}");
    assert!(reasons[5].contains("Cpuid") && reasons[5].contains("monitor"), "{reasons:?}");
    // Every byte is shown, in order.
    for pair in block.pieces.windows(2) {
        assert_eq!(pair[0].address + pair[0].host.len() as u64, pair[1].address);
    }
    let inside = bench.engine.blocks_at(pieces[2].rip);
    assert_eq!(inside, blocks, "any instruction of it leads to it");
    assert!(bench.engine.blocks_at(CODE + 1).is_empty(), "what is none does not");
    let contents = bench.engine.contents();
    assert!(contents.iter().any(|(what, count)| what.contains("blocks") && *count > 0), "{contents:?}");
    assert!(contents.iter().any(|(what, count)| what.contains("for writing") && *count > 0), "{contents:?}");
}

#[test]
fn an_interrupted_thread_is_seen_in_guest_code() {
    let mut bench = Bench::long_mode();
    bench.load(|a| {
        let mut top = a.create_label();
        a.set_label(&mut top).unwrap();
        a.add(rax, 1).unwrap();
        a.imul_2(rcx, rax).unwrap();
        a.jmp(top).unwrap();
    });
    bench.engine.prepare_sighting().unwrap();
    assert_eq!(bench.engine.sighted(), None);
    let (target, seen) = (Thread::current(), AtomicBool::new(false));
    let sighting = thread::scope(|scope| {
        scope.spawn(|| {
            while !seen.load(Ordering::Relaxed) {
                target.interrupt();
                thread::yield_now();
            }
        });
        // The signal itself makes the engine come out.
        let sighting = loop {
            let exit = bench.engine.run(&mut bench.cpu, Entry::Resume);
            assert!(matches!(exit, Exit::Kicked), "{exit:?}");
            if let Some(Sighting::Guest(rip)) = bench.engine.sighted() {
                break rip;
            }
        };
        seen.store(true, Ordering::Relaxed);
        sighting
    });
    assert!((CODE..CODE + 16).contains(&sighting), "{sighting:#x}");
}
