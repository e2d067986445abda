//! Guests that run where no code is, and guests of random bytes: whatever they do, popf ends as it should.

use std::time::Duration;

use crate::common::{Files, multiboot, popf};
use crate::harness::{Ended, run, run_for};

/// Runs a multiboot guest of this code, in 16 MiB.
fn wild(code: &[u8]) -> Ended {
    let files = Files::new();
    let kernel = files.write("kernel", &multiboot(code));
    run(&mut popf(&["run", "--memory", "16M", "--no-reboot", "--kernel", &kernel]), &[])
}

/// mov eax, address; jmp eax
fn jump(address: u32) -> Vec<u8> {
    [&[0xb8][..], &address.to_le_bytes(), &[0xff, 0xe0]].concat()
}

#[test]
fn code_is_fetched_from_memory_alone() {
    // The local APIC, the I/O APIC, behind the memory's end, the PCI hole, and the last byte there is.
    for address in [0xfee0_0000, 0xfec0_0000, 0x100_0000, 0x8000_0000, 0xffff_ffff] {
        let ended = wild(&jump(address));
        assert_eq!(ended.status, 70, "{address:#x}: {}", ended.stderr);
        assert!(ended.stderr.contains(&format!("{address:#x}")), "{address:#x}: {}", ended.stderr);
    }
    // Zeros, add [eax], al, up to where the memory ends.
    let ended = wild(&jump(0xff_f000));
    assert_eq!(ended.status, 70, "{}", ended.stderr);
    assert!(ended.stderr.contains("0x1000000"), "{}", ended.stderr);
}

#[test]
fn stacks_may_lie_anywhere() {
    // mov esp, address; call to the next instruction; ret. What is pushed to nothing reads as ones.
    for address in [0xfee0_0100_u32, 0x100_0000, 0x8000_0000, 4, 0] {
        let code = [&[0xbc][..], &address.to_le_bytes(), &[0xe8, 0, 0, 0, 0, 0xc3]].concat();
        let ended = wild(&code);
        assert!([70, 80].contains(&ended.status), "{address:#x}: {} {}", ended.status, ended.stderr);
        assert!(!ended.stderr.contains("panicked"), "{address:#x}: {}", ended.stderr);
    }
}

#[test]
fn random_bytes_end_as_documented() {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for round in 0..60 {
        let code: Vec<u8> = std::iter::repeat_with(|| next().to_le_bytes()).take(512).flatten().collect();
        let files = Files::new();
        let kernel = files.write("kernel", &multiboot(&code));
        let mut command = popf(&["run", "--memory", "16M", "--no-reboot", "--kernel", &kernel]);
        // It may well loop for ever; then it is asked to end.
        let ended = run_for(&mut command, &[], Duration::from_millis(500), "TERM");
        let (status, said) = (ended.status, ended.stderr);
        assert!([0, 70, 80, 81, 143].contains(&status), "guest {round}: {status}: {said}");
        assert!(!said.contains("panicked") && !said.contains("a bug in popf"), "guest {round}: {said}");
        assert!(status != 70 || !said.contains("not supported"), "guest {round}: {said}");
    }
}
