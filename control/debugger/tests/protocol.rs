//! The protocol, spoken by hand to machines that run, so that it is tested where there is no GDB too.

mod common;

use board::stop::StopReason;
use common::client::bytes;
use common::{ENTRY, Vm};

/// Numbers of registers in the i386 shape.
const EAX: usize = 0;
const ECX: usize = 1;
const EIP: usize = 8;
const EFLAGS: usize = 9;
const CS: usize = 10;
const XMM0: usize = 32;
/// Behind 8 vectors, MXCSR, and the six segments' bases.
const CR0: usize = 47;

/// Counts ecx from 0 to 3 in memory at 0x101000 and exits with it.
#[rustfmt::skip]
const COUNT: &[u8] = &[
    0x31, 0xc9,                               // 00: xor ecx, ecx
    0x41,                                     // 02: again: inc ecx
    0x89, 0x0d, 0x00, 0x10, 0x10, 0x00,       // 03: mov [101000], ecx
    0x83, 0xf9, 0x03,                         // 09: cmp ecx, 3
    0x75, 0xf4,                               // 0c: jne again
    0x88, 0xc8, 0xe6, 0xf4,                   // 0e: mov al, cl; out f4, al
    0xeb, 0xfe,                               // 12: jmp $
];
const JUMP_TO_ITSELF: &[u8] = &[0xeb, 0xfe];

fn status(reason: &StopReason) -> Option<u32> {
    if let StopReason::DebugExit(status) = reason { Some(*status) } else { None }
}

#[test]
fn a_guest_that_waits_is_broken_into_stepped_and_let_go() {
    let vm = Vm::start(COUNT, true);
    let mut gdb = vm.connect();
    assert!(gdb.ask("qSupported:swbreak+;hwbreak+").contains("qXfer:features:read+"));
    assert!(gdb.ask("?").starts_with("T05thread:"));
    let description = gdb.ask("qXfer:features:read:target.xml:0,ffb");
    assert!(description.contains("<architecture>i386</architecture>"), "{description}");
    assert_eq!(gdb.register(EIP), ENTRY);
    let inc = ENTRY + 2;
    assert_eq!(gdb.ask(&format!("Z1,{inc:x},1")), "OK");
    for times in 0..2 {
        let told = gdb.ask("vCont;c");
        assert!(told.starts_with("T05") && told.contains("hwbreak:;"), "{told}");
        assert_eq!((gdb.register(EIP), gdb.register(ECX)), (inc, times));
    }
    // Twice more would be once too often.
    assert_eq!(gdb.ask(&format!("z1,{inc:x},1")), "OK");
    assert!(gdb.ask("vCont;s:1").starts_with("T05"));
    assert_eq!((gdb.register(EIP), gdb.register(ECX)), (inc + 1, 2));
    assert_eq!(bytes(&gdb.ask("m101000,4")), [1, 0, 0, 0]);
    assert!(gdb.ask("vCont;s:1").starts_with("T05"));
    assert_eq!(bytes(&gdb.ask("m101000,4")), [2, 0, 0, 0]);
    assert_eq!(gdb.ask("vCont;c"), "W03");
    assert_eq!(status(&vm.reason()), Some(3));
}

#[test]
fn a_breakpoint_cannot_be_seen_by_the_guest() {
    // mov al, [ebx + ...]: reads the byte of the instruction that has the breakpoint, and exits with it.
    #[rustfmt::skip]
    let code = [
        0xa0, 0x25, 0x00, 0x10, 0x00,             // 00: mov al, [100025]
        0x90,                                     // 05: nop
        0xe6, 0xf4, 0xeb, 0xfe,                   // 06: out f4, al; jmp $
    ];
    let vm = Vm::start(&code, true);
    let mut gdb = vm.connect();
    let nop = ENTRY + 5;
    assert_eq!(gdb.ask(&format!("Z0,{nop:x},1")), "OK");
    let told = gdb.ask("vCont;c");
    assert!(told.contains("swbreak:;"), "{told}");
    assert_eq!((gdb.register(EIP), gdb.register(EAX) & 0xff), (nop, 0x90));
    assert_eq!(gdb.ask(&format!("m{nop:x},1")), "90");
    // It stands there still, and is passed.
    assert_eq!(gdb.ask("vCont;c"), "W90");
    assert_eq!(status(&vm.reason()), Some(0x90));
}

#[test]
fn memory_is_watched() {
    let vm = Vm::start(COUNT, true);
    let mut gdb = vm.connect();
    assert_eq!(gdb.ask("Z2,101000,4"), "OK");
    for times in 1..=3 {
        let told = gdb.ask("vCont;c");
        assert!(told.contains("watch:101000;"), "{told}");
        assert_eq!((gdb.register(EIP), gdb.register(ECX)), (ENTRY + 9, times));
    }
    assert_eq!(gdb.ask("z2,101000,4"), "OK");
    // Nothing reads it.
    assert_eq!(gdb.ask("Z3,101000,4"), "OK");
    assert_eq!(gdb.ask("vCont;c"), "W03");
}

#[test]
fn a_guest_is_interrupted_and_its_code_rewritten() {
    let vm = Vm::start(&[JUMP_TO_ITSELF, &[0xb0, 7, 0xe6, 0xf4, 0xeb, 0xfe]].concat(), false);
    let mut gdb = vm.connect();
    gdb.send("vCont;c");
    gdb.interrupt();
    assert!(gdb.answer().starts_with("T02"));
    assert_eq!(gdb.register(EIP), ENTRY);
    // nop; nop, over code that has been translated.
    assert_eq!(gdb.ask(&format!("M{ENTRY:x},2:9090")), "OK");
    assert_eq!(gdb.ask("vCont;c"), "W07");
    assert_eq!(status(&vm.reason()), Some(7));
}

#[test]
fn registers_are_written_one_by_one_and_all_together() {
    let vm = Vm::start(&[JUMP_TO_ITSELF, &[0xe6, 0xf4, 0xeb, 0xfe]].concat(), true);
    let mut gdb = vm.connect();
    assert_eq!(gdb.ask(&format!("P{EIP:x}={:08x}", ((ENTRY + 2) as u32).swap_bytes())), "OK");
    assert_eq!(gdb.ask(&format!("P{XMM0:x}=000102030405060708090a0b0c0d0e0f")), "OK");
    assert_eq!(gdb.ask(&format!("p{XMM0:x}")), "000102030405060708090a0b0c0d0e0f");
    // The flag that is always set stays set, and what is no flag stays clear.
    assert_eq!(gdb.ask(&format!("P{EFLAGS:x}=ffffcfff")), "OK");
    assert_eq!(gdb.register(EFLAGS) & 0xffc0_802a, 0x2);
    assert_eq!(gdb.ask(&format!("P{EFLAGS:x}=02000000")), "OK");
    assert_eq!(gdb.register(CR0) & 1, 1, "protected mode");
    for refused in [format!("P{CR0:x}=00000000"), format!("P{CS:x}=33000000"), format!("P{EAX:x}=0000")] {
        assert!(gdb.ask(&refused).starts_with('E'), "{refused}");
    }
    assert!(gdb.ask("pfff").starts_with('E'));
    let all = gdb.ask("g");
    let changed = format!("2a000000{}", &all[8..]);
    assert_eq!(gdb.ask(&format!("G{changed}")), "OK");
    assert_eq!(gdb.ask("g"), changed);
    assert!(gdb.ask("G2a000000").starts_with('E'));
    assert_eq!(gdb.ask("vCont;c"), "W2a");
}

#[test]
fn linear_addresses_go_through_the_guests_tables_and_leave_them_alone() {
    // Maps 4 MiB at 0 and, at 0x400000, the same again, the latter never accessed.
    #[rustfmt::skip]
    let code = [
        0xb8, 0x00, 0x00, 0x20, 0x00,                                     // 00: mov eax, 200000
        0xc7, 0x00, 0x83, 0x00, 0x00, 0x00,                               // mov [eax], 83
        0xc7, 0x40, 0x04, 0x81, 0x00, 0x00, 0x00,                         // mov [eax + 4], 81
        0x0f, 0x22, 0xd8,                                                 // mov cr3, eax
        0x0f, 0x20, 0xe0, 0x83, 0xc8, 0x10, 0x0f, 0x22, 0xe0,             // cr4 |= PSE
        0x0f, 0x20, 0xc0, 0x0d, 0x00, 0x00, 0x01, 0x80, 0x0f, 0x22, 0xc0, // cr0 |= PG | WP
        0xeb, 0xfe,                                                       // 29: jmp $
    ];
    let vm = Vm::start(&code, true);
    let mut gdb = vm.connect();
    let end = ENTRY + 0x29;
    assert_eq!(gdb.ask(&format!("Z1,{end:x},1")), "OK");
    assert!(gdb.ask("vCont;c").contains("hwbreak"));
    assert_eq!(gdb.ask("m500020,5"), "b800002000");
    // The page is read-only, which is no matter to a debugger.
    assert_eq!(gdb.ask("M501000,2:abcd"), "OK");
    assert_eq!(gdb.ask("m101000,2"), "abcd");
    assert!(gdb.ask("m800000,4").starts_with('E'), "not mapped");
    assert_eq!(bytes(&gdb.ask("m7ffffc,8")).len(), 4, "as much as is there");
    assert!(gdb.ask("M7ffffc,8:0000000000000000").starts_with('E'), "all or nothing");
    // Neither accessed nor dirty.
    assert_eq!(gdb.monitor("xp 0x200004 4"), "0x00200004: 81 00 00 00\n");
    assert_eq!(gdb.monitor("translate 0x500020"), "0x500020 is at physical 0x100020\n");
    assert_eq!(gdb.monitor("translate 0x800000"), "0x800000 is not mapped\n");
    assert!(gdb.monitor("physical on").contains("physical"));
    assert!(gdb.ask("m500020,5").starts_with('E'), "there is no RAM");
    assert_eq!(gdb.ask("m100020,2"), "b800");
    assert!(gdb.monitor("physical off").contains("linear"));
    assert_eq!(gdb.ask("m500020,5"), "b800002000");
    vm.stop();
}

#[test]
fn monitor_commands_tell_what_there_is() {
    let vm = Vm::start(COUNT, true);
    let mut gdb = vm.connect();
    assert!(gdb.ask(&format!("Z1,{:x},1", ENTRY + 2)) == "OK" && gdb.ask("vCont;c").contains("hwbreak"));
    let all = gdb.monitor("info");
    for what in
        ["eip 00100022", "cr0", "gdtr", "dr7", "32-bit protected mode, ring 0", "Debug", "blocks translated"]
    {
        assert!(all.contains(what), "{what} in {all}");
    }
    assert!(gdb.monitor("help").contains("xp ADDRESS"));
    assert!(gdb.monitor("nonsense").contains("no such command: nonsense"));
    assert!(gdb.monitor("xp zzz").contains("no number"));
    assert!(gdb.monitor("xp 0xfffffffffffffff0 99").contains("no RAM at"));
    let thread = gdb.ask("qfThreadInfo");
    let about = gdb.ask(&format!("qThreadExtraInfo,{}", &thread[1..]));
    assert!(String::from_utf8(bytes(&about)).unwrap().starts_with("vCPU 0: running"));
    vm.stop();
    drop(gdb);
    assert!(matches!(vm.reason(), StopReason::PowerOff));
}

#[test]
fn who_detaches_leaves_nothing_behind() {
    for leave in ["D", "hang up", "hang up while it runs"] {
        let vm = Vm::start(COUNT, true);
        let mut gdb = vm.connect();
        assert_eq!(gdb.ask(&format!("Z1,{:x},1", ENTRY + 0xe)), "OK");
        match leave {
            "D" => assert_eq!(gdb.ask("D"), "OK"),
            "hang up" => drop(gdb),
            _ => {
                // In time or not: the breakpoint goes, and the guest with it.
                gdb.send("vCont;c");
                drop(gdb);
            }
        }
        assert_eq!(status(&vm.reason()), Some(3), "{leave}");
    }
}

#[test]
fn one_debugger_comes_after_another() {
    let vm = Vm::start(JUMP_TO_ITSELF, false);
    for _ in 0..3 {
        let mut gdb = vm.connect();
        assert_eq!(gdb.register(EIP), ENTRY);
        assert_eq!(gdb.ask("D"), "OK");
    }
    let mut gdb = vm.connect();
    gdb.send("k");
    assert!(matches!(vm.reason(), StopReason::Killed));
}

#[test]
fn a_guest_ends_while_a_debugger_holds_it() {
    let vm = Vm::start(JUMP_TO_ITSELF, true);
    let mut gdb = vm.connect();
    assert_eq!(gdb.register(EIP), ENTRY);
    vm.stop();
    assert!(matches!(vm.reason(), StopReason::PowerOff));
}
