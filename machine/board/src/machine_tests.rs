//! Machines with guests of a few instructions.

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use backends::{MemoryPeer, Serial, SerialEvent};
use devices::wiring::VmClock;

use super::*;
use crate::insight::{HostCode, HostPart};

/// A multiboot kernel loaded at 1 MiB that runs this code.
fn multiboot(code: &[u8]) -> Source {
    multiboot_at(0x10_0000, code)
}

fn multiboot_at(base: u32, code: &[u8]) -> Source {
    let (magic, flags) = (0x1bad_b002_u32, 1 << 16);
    let checksum = 0_u32.wrapping_sub(magic).wrapping_sub(flags);
    let header = [magic, flags, checksum, base, base, 0, 0, base + 32];
    let mut file: Vec<u8> = header.iter().flat_map(|word| word.to_le_bytes()).collect();
    file.extend_from_slice(code);
    Source::Bytes(file.into())
}

fn config(code: &[u8]) -> (Config, MemoryPeer) {
    let (serial, peer) = Serial::memory().unwrap();
    let serial = SerialLine::start(serial, |_: SerialEvent| {}).unwrap();
    let config = Config {
        memory: 4 << 20,
        cpus: 1,
        engine: EngineChoice::Auto,
        kernel: multiboot(code),
        modules: Vec::new(),
        cmdline: String::new(),
        serial: vec![Arc::new(serial)],
        peripherals: Vec::new(),
        debug_exit: true,
        test_device: false,
        reboot: true,
        yard: None,
        last_look: None,
        cache: None,
        direct: None,
        sandbox: None,
    };
    (config, peer)
}

/// mov eax, 5; mov ecx, 0x1234; out 0xf4, al; and in case that returns: jmp $
const EXIT_5: &[u8] = &[0xb8, 5, 0, 0, 0, 0xb9, 0x34, 0x12, 0, 0, 0xe6, 0xf4, 0xeb, 0xfe];
const JUMP_TO_ITSELF: &[u8] = &[0xeb, 0xfe];

#[test]
fn everything_is_freed_at_the_end() {
    let (config, _peer) = config(EXIT_5);
    let mut machine = Machine::build(&config, None).unwrap();
    let (pit, uart) = (Arc::downgrade(&machine.chips.pit), Arc::downgrade(&machine.chips.uarts[0]));
    let (pm, apics): (Weak<_>, Weak<_>) =
        (Arc::downgrade(&machine.chips.pm), Arc::downgrade(&machine.chips.io_apic));
    assert!(matches!(machine.run(&config), StopReason::DebugExit(5)));
    drop(machine);
    assert_eq!((pit.strong_count(), uart.strong_count()), (0, 0));
    assert_eq!((pm.strong_count(), apics.strong_count()), (0, 0));
}

#[test]
fn a_kernel_that_goes_back_to_real_mode_finds_a_clock() {
    #[rustfmt::skip]
    let code = [
        0x0f, 0x01, 0x15, 0x5c, 0x80, 0, 0,             // 8020: lgdt [805c]
        0x0f, 0x01, 0x1d, 0x62, 0x80, 0, 0,             // lidt [8062]
        0xea, 0x35, 0x80, 0, 0, 0x08, 0,                // jmp 8:8035
        0xb8, 0x10, 0, 0x8e, 0xd8, 0x8e, 0xd0,          // 8035: mov ax, 10; mov ds, ax; mov ss, ax
        0xbc, 0x00, 0x70,                               // mov sp, 7000
        0x0f, 0x20, 0xc0, 0x24, 0xfe, 0x0f, 0x22, 0xc0, // mov eax, cr0; and al, fe; mov cr0, eax
        0xea, 0x4c, 0x80, 0, 0,                         // jmp 0:804c
        0x31, 0xc0, 0x8e, 0xd8, 0x8e, 0xd0,             // 804c: xor ax, ax; mov ds, ax; mov ss, ax
        0xfb, 0xf4, 0xf4,                               // sti; hlt; hlt
        0xb0, 0x07, 0xe6, 0xf4,                         // mov al, 7; out f4, al
        0x8d, 0x74, 0x00,
        23, 0, 0x68, 0x80, 0, 0,                        // 805c: descriptor table at 8068
        0xff, 0x03, 0, 0, 0, 0,                         // 8062: vector table at 0
        0, 0, 0, 0, 0, 0, 0, 0,                         // 8068: null; 16-bit code; 16-bit data
        0xff, 0xff, 0, 0, 0, 0x9b, 0, 0,
        0xff, 0xff, 0, 0, 0, 0x93, 0, 0,
    ];
    let (mut config, _peer) = config(&[]);
    config.kernel = multiboot_at(0x8000, &code);
    let end = run(&config, &Control::default()).unwrap();
    assert!(matches!(end.reason, StopReason::DebugExit(7)), "{:?}", end.reason);
}

#[test]
fn a_reset_starts_again_and_the_line_stays() {
    // Says '.', waits for a byte, resets; at 'q' powers off.
    #[rustfmt::skip]
    let code = [
        0x66, 0xba, 0xf8, 0x03, 0xb0, b'.', 0xee,       // mov dx, 3f8; mov al, '.'; out dx, al
        0x66, 0xba, 0xfd, 0x03,                         // mov dx, 3fd
        0xec, 0xa8, 0x01, 0x74, 0xfb,                   // l: in al, dx; test al, 1; jz l
        0x66, 0xba, 0xf8, 0x03, 0xec,                   // mov dx, 3f8; in al, dx
        0x3c, b'q', 0x74, 0x09,                         // cmp al, 'q'; je off
        0x66, 0xba, 0xf9, 0x0c, 0xb0, 0x06, 0xee,       // mov dx, cf9; mov al, 6; out dx, al
        0xeb, 0xfe,                                     // jmp $
        0x66, 0xb8, 0x00, 0x34,                         // off: mov ax, SLP_EN | S5
        0x66, 0xba, 0x04, 0x06, 0x66, 0xef,             // mov dx, PM1a_CNT; out dx, ax
        0xeb, 0xfe,                                     // jmp $
    ];
    let (config, mut peer) = config(&code);
    let machine = thread::spawn(move || run(&config, &Control::default()));
    let deadline = Instant::now() + Duration::from_secs(60);
    for (life, byte) in (1..).zip(*b"rrq") {
        while peer.output().len() < life {
            assert!(Instant::now() < deadline, "life {life} has not begun");
            thread::yield_now();
        }
        peer.input.write_all(&[byte]).unwrap();
    }
    let end = machine.join().unwrap().unwrap();
    assert!(matches!(end.reason, StopReason::PowerOff), "{:?}", end.reason);
    assert_eq!(peer.output(), b"...");
    assert!(!end.counters[0].rows.is_empty());
}

/// Starts the others at 8000 and jumps to itself; the second to come there ends the machine.
#[rustfmt::skip]
const START_THE_OTHERS: &[u8] = &[
    0xc7, 0x05, 0x00, 0x80, 0, 0, 0xf0, 0xff, 0x06, 0x80,  // at 8000: lock inc word [8080]
    0xc7, 0x05, 0x04, 0x80, 0, 0, 0x80, 0x83, 0x3e, 0x80,  // cmp word [8080], 2
    0xc7, 0x05, 0x08, 0x80, 0, 0, 0x80, 0x02, 0x75, 0x07,  // jne l
    0xc7, 0x05, 0x0c, 0x80, 0, 0, 0xb8, 0x07, 0x00, 0xba,  // mov ax, 7; mov dx, f4
    0xc7, 0x05, 0x10, 0x80, 0, 0, 0xf4, 0x00, 0xef, 0xf4,  // out dx, ax; l: hlt
    0xbe, 0x00, 0x00, 0xe0, 0xfe,                          // mov esi, fee00000
    0xc7, 0x86, 0x00, 0x03, 0, 0, 0x00, 0x45, 0x0c, 0x00,  // mov [esi + 300], INIT to all others
    0xc7, 0x86, 0x00, 0x03, 0, 0, 0x08, 0x46, 0x0c, 0x00,  // mov [esi + 300], start-up at 8000
    0xeb, 0xfe,                                            // jmp $
];

#[test]
fn the_first_processor_starts_the_others() {
    let (mut config, _peer) = config(START_THE_OTHERS);
    config.cpus = 3;
    let end = run(&config, &Control::default()).unwrap();
    assert!(matches!(end.reason, StopReason::DebugExit(7)), "{:?}", end.reason);
    assert_eq!(
        end.counters.iter().map(|vcpu| (vcpu.vcpu, vcpu.vcpus)).collect::<Vec<_>>(),
        [(0, 3), (1, 3), (2, 3)]
    );
}

#[test]
fn a_machine_is_dead_when_all_its_processors_are() {
    for cpus in [1, 3] {
        let (mut config, _peer) = config(&[0xfa, 0xf4]);
        config.cpus = cpus;
        let end = run(&config, &Control::default()).unwrap();
        assert!(matches!(end.reason, StopReason::Dead), "{cpus}: {:?}", end.reason);
    }
}

#[test]
fn the_power_button_asks_a_guest_that_listens() {
    // Turns ACPI mode and the button's event on, says '.', and powers off at the event.
    #[rustfmt::skip]
    let code = [
        0xb0, 0xf1, 0xe6, 0xb2,                         // mov al, ACPI_ENABLE; out b2, al
        0x66, 0xba, 0x02, 0x06, 0x66, 0xb8, 0x00, 0x01, // mov dx, PM1a_EN; mov ax, PWRBTN_EN
        0x66, 0xef,                                     // out dx, ax
        0x66, 0xba, 0xf8, 0x03, 0xb0, b'.', 0xee,       // mov dx, 3f8; mov al, '.'; out dx, al
        0x66, 0xba, 0x00, 0x06,                         // mov dx, PM1a_STS
        0x66, 0xed, 0xf6, 0xc4, 0x01, 0x74, 0xf9,       // l: in ax, dx; test ah, PWRBTN_STS >> 8; jz l
        0x66, 0xb8, 0x00, 0x34,                         // mov ax, SLP_EN | S5
        0x66, 0xba, 0x04, 0x06, 0x66, 0xef,             // mov dx, PM1a_CNT; out dx, ax
        0xeb, 0xfe,                                     // jmp $
    ];
    let (config, peer) = config(&code);
    let control = Control::default();
    assert!(!control.power_button(), "there is no machine");
    let (started, start) = std::sync::mpsc::channel();
    control.on_start(move || started.send(()).unwrap());
    let other = control.clone();
    let machine = thread::spawn(move || run(&config, &other));
    start.recv_timeout(Duration::from_secs(60)).unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while peer.output().is_empty() {
        assert!(Instant::now() < deadline, "the guest has not begun");
        thread::yield_now();
    }
    assert!(control.power_button());
    let end = machine.join().unwrap().unwrap();
    assert!(matches!(end.reason, StopReason::PowerOff), "{:?}", end.reason);
    assert!(!control.power_button());
}

#[test]
fn a_stop_from_outside_comes_through_whenever_it_comes() {
    // Before there is a machine.
    let (early, _peer) = config(JUMP_TO_ITSELF);
    let control = Control::default();
    control.stop(StopReason::Signal(15));
    let end = run(&early, &control).unwrap();
    assert!(matches!(end.reason, StopReason::Signal(15)));
    // While it runs, and while it sleeps (the clock masked; sti; hlt).
    for code in [JUMP_TO_ITSELF, &[0xb0, 0xff, 0xe6, 0x21, 0xfb, 0xf4]] {
        let (config, _peer) = config(code);
        let control = Control::default();
        let (other, running) = (control.clone(), Arc::new(AtomicBool::new(false)));
        let seen = running.clone();
        let stopper = thread::spawn(move || {
            while !seen.load(Ordering::Acquire) {
                thread::yield_now();
            }
            // Long enough for the guest to be in its loop or asleep; either way it must end.
            thread::sleep(Duration::from_millis(20));
            other.stop(StopReason::Quit);
        });
        running.store(true, Ordering::Release);
        let end = run(&config, &control).unwrap();
        assert!(matches!(end.reason, StopReason::Quit), "{:?}", end.reason);
        stopper.join().unwrap();
    }
}

#[test]
fn a_saved_machine_goes_on_in_another() {
    let (old_config, _old_peer) = config(EXIT_5);
    let mut old = Machine::build(&old_config, None).unwrap();
    assert!(matches!(old.run(&old_config), StopReason::DebugExit(5)));
    let guest_tsc = |machine: &mut Machine| {
        machine.clock.tsc().wrapping_add(machine.processors[0].dispatcher.cpu().tsc_offset)
    };
    let (time, tsc) = (old.clock.now(), guest_tsc(&mut old));
    let file = old.save().unwrap();

    let (new_config, _new_peer) = config(EXIT_5);
    let mut new = Machine::build(&new_config, None).unwrap();
    let fresh = new.processors[0].dispatcher.cpu().clone();
    // A damaged file changes nothing.
    let mut damaged = file.clone();
    let last = damaged.len() - 1;
    damaged[last] ^= 1;
    assert!(new.restore(&damaged).is_err());
    assert!(new.restore(&file[..last]).is_err());
    assert_eq!(*new.processors[0].dispatcher.cpu(), fresh);

    new.restore(&file).unwrap();
    let saved = old.processors[0].dispatcher.cpu().clone();
    let restored = new.processors[0].dispatcher.cpu().clone();
    assert_eq!(restored.gpr[0..2], [5, 0x1234]);
    // Time has gone on from where it stood.
    assert!(new.clock.now() >= time && new.clock.now() - time < 60_000_000_000);
    assert!(guest_tsc(&mut new) >= tsc);
    assert_eq!(CpuState { tsc_offset: 0, ..restored }, CpuState { tsc_offset: 0, ..saved });
    // RIP is after the OUT; the loop there ends when asked.
    let stop = new.stop.clone();
    let stopper = thread::spawn(move || stop.stop(StopReason::Quit));
    assert!(matches!(new.run(&new_config), StopReason::Quit));
    stopper.join().unwrap();
    assert_eq!(new.processors[0].dispatcher.cpu().rip, 0x10_0000 + 32 + 12);
}

#[test]
fn a_vcpu_finds_ram_its_apic_and_devices_at_their_addresses() {
    use vcpu::Environment;
    let (config, _peer) = config(EXIT_5);
    let mut machine = Machine::build(&config, None).unwrap();
    let view = &mut machine.processors[0].view;
    let read = |view: &mut ProcessorView, gpa, len| {
        let mut data = [0; 16];
        view.read_memory(gpa, &mut data[..len]);
        u128::from_le_bytes(data)
    };
    for (len, value) in [(1, 0x12), (2, 0x1234), (4, 0x1234_5678), (8, 0x1122_3344_5566_7788), (16, !7)] {
        let value: u128 = value;
        for gpa in [0x20_0000, 0x20_0fff] {
            view.write_memory(gpa, &value.to_le_bytes()[..len]);
            assert_eq!(read(view, gpa, len), value, "{len} bytes at {gpa:#x}");
        }
    }
    // Past the end of RAM nobody answers; an access half there gets what there is.
    assert_eq!(read(view, config.memory, 4), 0xffff_ffff);
    view.write_memory(config.memory - 2, &[1, 2, 3, 4]);
    assert_eq!(read(view, config.memory - 2, 4), 0xffff_0201);
    // The local APIC's version register; the I/O APIC's, by index and window.
    assert_eq!(read(view, 0xfee0_0030, 4) & 0xf0, 0x10);
    view.write_memory(0xfec0_0000, &1_u32.to_le_bytes());
    assert_eq!(read(view, 0xfec0_0010, 4) & 0x00ff_0000, 23 << 16);
    // Ports: the PCI host bridge's identity; where nobody is.
    view.write_port(0xcf8, 4, 0x8000_0000);
    assert_eq!(view.read_port(0xcfc, 4), 0x1237_8086);
    assert_eq!(view.read_port(0x1234, 2), 0xffff);
    // ACPI's root pointer lies in RAM.
    assert_eq!(read(view, BIOS, 8), u64::from_le_bytes(*b"RSD PTR ").into());
}

#[test]
fn what_cannot_be_built_says_why() {
    let (mut config, _peer) = config(EXIT_5);
    config.memory = 0;
    let refused = |config: &Config| Machine::build(config, None).err().unwrap();
    assert!(matches!(refused(&config), BuildError::Size(SizeError::TooSmall(0))));
    config.memory = 1 << 39;
    assert!(matches!(refused(&config), BuildError::HostMemory { .. }));
    config.memory = 4 << 20;
    config.modules = vec![Source::File("/nonexistent".into())];
    assert!(matches!(refused(&config), BuildError::Read { .. }));
    config.modules = vec![Source::Bytes(vec![0; 4 << 20].into())];
    assert!(matches!(refused(&config), BuildError::Load(LoadError::NoRoom { .. })));
}

#[test]
fn a_machine_is_looked_at_when_it_has_ended() {
    let (mut config, _peer) = config(EXIT_5);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let answers = seen.clone();
    config.last_look = Some(Arc::new(move |ask: &mut Ask<'_>| {
        let mut answers = answers.lock().unwrap();
        answers.push(ask(&Question::Counters { vcpu: 0 }).unwrap());
        answers.push(ask(&Question::HostCode { vcpu: 0, from: 0 }).unwrap());
        answers.push(ask(&Question::Read { vcpu: 0, linear: 0x10_001f, len: 17 }).unwrap());
        let nobody = ask(&Question::Counters { vcpu: 1 });
        assert!(matches!(nobody, Err(AskError::NoProcessor { asked: 1, there: 1 })), "{nobody:?}");
    }));
    let end = run(&config, &Control::default()).unwrap();
    assert!(matches!(end.reason, StopReason::DebugExit(5)), "{:?}", end.reason);
    let [Answer::Counters(snapshot), Answer::HostCode(parts), Answer::Bytes(bytes)] =
        &seen.lock().unwrap()[..]
    else {
        panic!("{seen:?}");
    };
    assert_eq!(snapshot.rows, end.counters[0].rows);
    assert!(snapshot.rows.iter().any(|row| row.cause == "Out" && row.counter.count == 1), "{snapshot:?}");
    let begins = |part: &HostCode| matches!(part.part, HostPart::Guest { rip: 0x10_0020, user: false, .. });
    assert!(parts.iter().any(begins), "{parts:?}");
    // The header's last byte, the code, and what follows it.
    assert_eq!(bytes, "00b805000000b934120000e6f4ebfe0000");
}
