//! Linux with options that have it drive the machine in other ways: each boots to a command, sees what the option
//! says, and powers off.

use selfcheck::PROGRAM;

use crate::harness::{guest_of, image};

/// What a script prints in a kernel that was given these options.
fn with(options: &str, script: &str) -> String {
    fed(options, script, &[])
}

/// The same with something on its standard input.
fn fed(options: &str, script: &str, input: &[u8]) -> String {
    image();
    let ended = guest_of(&["--cmdline", options, "busybox"], &["sh", "-c", script], input);
    assert_eq!((ended.status, ended.stderr.as_str()), (0, ""), "{options}: {}", ended.text());
    ended.text()
}

/// Interrupts come by the two 8259s, and time by the 8254.
#[test]
fn without_apics() {
    let said = with("nosmp noapic nolapic", "cat /proc/interrupts");
    let timer = said.lines().find(|line| line.trim_start().starts_with("0:")).expect("a timer's line");
    assert!(timer.contains("XT-PIC"), "{said}");
    assert!(!said.contains("IO-APIC"), "{said}");
}

/// The local APIC alone.
#[test]
fn without_the_io_apic() {
    let said = with("nosmp noapic", "cat /proc/interrupts");
    assert!(said.contains("XT-PIC") && !said.contains("IO-APIC"), "{said}");
}

/// The kernel finds what there is by itself, and ends by what else there is.
#[test]
fn without_acpi() {
    let said = with("acpi=off", "ls /sys/firmware; [ -e /proc/acpi ] || echo none");
    assert!(!said.contains("acpi") && said.ends_with("none\n"), "{said}");
}

#[test]
fn without_mitigations() {
    let meltdown = "cat /sys/devices/system/cpu/vulnerabilities/*";
    for options in ["nopti", "mitigations=off"] {
        let said = with(options, meltdown);
        assert!(!said.contains("PTI"), "{options}: {said}");
    }
    // Page tables of two halves: each system call changes CR3.
    let said = with("pti=on", "dmesg | grep -o 'page tables isolation: enabled'");
    assert_eq!(said, "page tables isolation: enabled\n");
}

/// The kernel and its map of all memory in pages of 4 KiB alone.
#[test]
fn without_large_pages() {
    let script = "grep '^DirectMap2M' /proc/meminfo; n=0; \
                  for i in $(seq 50); do /bin/true && n=$((n + 1)); done; echo $n";
    let said = with("clearcpuid=pse nogbpages", script);
    let words: Vec<&str> = said.split_whitespace().collect();
    assert_eq!(words, ["DirectMap2M:", "0", "kB", "50"]);
}

/// Page tables of five levels, and of four if the kernel is told so.
#[test]
fn five_and_four_levels() {
    let script = "cat > check && chmod +x check; grep -cw la57 /proc/cpuinfo; \
                  ./check pages-four-levels pages-five-levels";
    let said = |options| fed(options, script, PROGRAM);
    let (five, four) = ("ok pages-five-levels\n", "ok pages-four-levels\n");
    let default = said("");
    assert!(default.starts_with("1\n") && default.contains(five) && !default.contains(four), "{default}");
    let without = said("no5lvl");
    assert!(without.starts_with("0\n") && without.contains(four) && !without.contains(five), "{without}");
}
