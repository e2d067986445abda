//! What the engine shows of its insides.

mod common;

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use common::{Bench, CODE, DATA};
use host::sampling::Thread;
use iced_x86::code_asm::*;
use translator::Options;
use vcpu::{Engine as _, Entry, Exit, HostCode, HostPart, Invalidation, Sighting};

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
    // Every byte is shown, in order; the ways out stand elsewhere.
    let (ways_out, code) = block.pieces.split_last().unwrap();
    assert!(ways_out.reason.starts_with("ways out"), "{ways_out:?}");
    for pair in code.windows(2) {
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

/// All of it, asked for in pieces.
fn host_code(bench: &Bench) -> Vec<HostCode> {
    let mut all: Vec<HostCode> = Vec::new();
    loop {
        let from = all.last().map_or(0, |last| last.address + 1);
        let piece = bench.engine.host_code(from, 3);
        if piece.is_empty() {
            return all;
        }
        assert!(piece.len() <= 3);
        all.extend(piece);
    }
}

/// The part that an address lies in.
fn part_at(code: &[HostCode], address: u64) -> &HostPart {
    let found: Vec<_> =
        code.iter().filter(|part| (part.address..part.address + part.len).contains(&address)).collect();
    assert_eq!(found.len(), 1, "{address:#x}: {found:?}");
    &found[0].part
}

#[test]
fn host_code_is_told_apart_by_address() {
    let mut bench = Bench::long_mode();
    bench.load(|a| {
        a.mov(rbx, DATA).unwrap();
        a.mov(rax, qword_ptr(rbx)).unwrap();
    });
    bench.run();
    let block = bench.engine.blocks_at(CODE).remove(0);
    let code = host_code(&bench);
    for pair in code.windows(2) {
        assert!(pair[0].address + pair[0].len <= pair[1].address, "{pair:?}");
    }
    for piece in &block.pieces {
        let last = piece.address + piece.host.len() as u64 - 1;
        let way_out = piece.reason.starts_with("ways out");
        for address in [piece.address, last] {
            let expected = HostPart::Guest { rip: CODE, user: false, way_out };
            assert_eq!(part_at(&code, address), &expected, "{piece:?}");
        }
    }
    for name in ["enter", "leave", "jump-not-found", "refill-read-kernel", "refill-write-user", "bounce"] {
        let named = |part: &HostCode| part.part == HostPart::Engine(name.into());
        assert!(code.iter().any(named), "{name}");
    }
}

#[test]
fn code_that_was_thrown_away_is_remembered_where_nothing_else_stands() {
    let mut bench = Bench::long_mode_with(Options::default());
    bench.engine.keep_host_code();
    // Two blocks; after the cache is emptied, one of them again.
    bench.load(|a| {
        let mut next = a.create_label();
        a.jmp(next).unwrap();
        a.set_label(&mut next).unwrap();
        a.mov(rax, 1_u64).unwrap();
    });
    bench.run();
    let blocks = |code: &[HostCode]| -> Vec<_> {
        code.iter().filter(|part| matches!(part.part, HostPart::Guest { .. })).cloned().collect()
    };
    let before = blocks(&host_code(&bench));
    let second = CODE + 2;
    assert!(before.iter().any(|part| matches!(part.part, HostPart::Guest { rip, .. } if rip == second)));
    bench.engine.invalidate(Invalidation::Everything);
    assert_eq!(blocks(&host_code(&bench)), before, "nothing is there yet");
    bench.cpu.rip = second;
    bench.run();
    let after = blocks(&host_code(&bench));
    let first = &before[0];
    assert_eq!(after[0].address, first.address);
    assert!(matches!(after[0].part, HostPart::Guest { rip, .. } if rip == second), "{after:?}");
    let end = after
        .iter()
        .take_while(|part| matches!(part.part, HostPart::Guest { rip, .. } if rip == second))
        .last();
    let end = end.map_or(0, |part| part.address + part.len);
    let old: Vec<_> = before.iter().filter(|part| part.address >= end).cloned().collect();
    assert!(after.ends_with(&old), "{after:?} {before:?}");
    assert_eq!(after.iter().filter(|part| part.address >= end).count(), old.len());
}
