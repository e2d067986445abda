//! `popf classify`: the table filtered, the theorem applied, the experiment made.

mod common;

use common::{popf, run};
use serde_json::Value;

fn json(arguments: &[&str]) -> Value {
    let (status, stdout, stderr) = run(popf(&["classify", "--json"]).args(arguments));
    assert_eq!(status, 0, "{arguments:?}: {stderr}");
    serde_json::from_str(&stdout).unwrap()
}

/// The names in a list.
fn names(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|line| line["name"].as_str().unwrap()).collect()
}

#[test]
fn offenders_come_by_default() {
    let list = json(&[]);
    let offenders = names(&list);
    let of_old = [
        "SGDT", "SIDT", "SLDT", "SMSW", "STR", "PUSHFQ", "POPFQ", "LAR", "LSL", "VERR", "VERW", "INT", "RETF",
    ];
    let of_today = ["RDPID", "XGETBV", "RDTSC", "CPUID", "RDPKRU", "RDFSBASE"];
    for name in of_old.iter().chain(&of_today) {
        assert!(offenders.contains(name), "{name} is missing in {offenders:?}");
    }
    for line in list.as_array().unwrap() {
        assert!(line["offends"] == true && line["privileged"] == false, "{line}");
        assert!(
            line["manual"].as_str().unwrap().len() > 3 && line["reason"].as_str().unwrap().len() > 3,
            "{line}"
        );
    }
}

#[test]
fn filters_filter() {
    let privileged = json(&["--class", "privileged"]);
    assert!(names(&privileged).contains(&"HLT") && !names(&privileged).contains(&"POPFQ"));
    let smap = json(&["--extension", "smap"]);
    assert_eq!(names(&smap), ["CLAC", "STAC"]);
    let smsw = json(&["smsw"]);
    assert_eq!(names(&smsw), ["SMSW"]);
    assert_eq!(smsw[0]["traps"], "with UMIP");
    let popf_mnemonic = json(&["popf", "--mode", "virtual8086"]);
    assert_eq!(names(&popf_mnemonic), ["POPF", "POPFD"]);
    assert_eq!(popf_mnemonic[0]["privileged"], true, "IOPL below 3");
    let innocuous = json(&["--class", "innocuous"]);
    assert!(names(&innocuous).contains(&"ADD"));
    let (status, _, stderr) = run(&mut popf(&["classify", "nosuchinstruction"]));
    assert_eq!(status, 66, "{stderr}");
}

#[test]
fn the_table_tells_why() {
    let (status, stdout, stderr) = run(&mut popf(&["classify", "popfq"]));
    assert_eq!(status, 0, "{stderr}");
    for word in ["both", "in ring 3 silently leaves them", "SDM vol. 2 POPF", "    POPFQ"] {
        assert!(stdout.contains(word), "no {word:?} in {stdout}");
    }
}

#[test]
fn the_theorem_is_applied() {
    let verdicts = json(&["--theorem"]);
    let of = |name: &str| {
        let with = |verdict: &&Value| verdict["processor"].as_str().unwrap() == name;
        verdicts.as_array().unwrap().iter().find(with).unwrap()
    };
    let offends = |name, instruction| names(&of(name)["offenders"]).contains(&instruction);
    assert!(offends("x86", "SGDT") && !offends("with UMIP", "SGDT") && offends("with UMIP", "POPFQ"));
    assert!(offends("with UMIP and TSD", "CPUID") && !offends("and with CPUID faulting", "CPUID"));
    assert_eq!(of("x86")["virtualizable"], false);
    for assisted in ["with VMX", "with SVM"] {
        assert_eq!(of(assisted)["virtualizable"], true);
        let list = |kind: &str| of(assisted)[kind].as_array().unwrap().clone();
        assert!(list("exits").contains(&"CPUID".into()) && list("own_state").contains(&"LAR".into()));
    }
    let (status, stdout, _) = run(&mut popf(&["classify", "--theorem"]));
    assert_eq!(status, 0);
    assert!(
        stdout.contains("x86: not virtualizable") && stdout.contains("with VMX: virtualizable"),
        "{stdout}"
    );
}

/// What no x86 processor under Linux can do otherwise; what depends on the processor is only looked at.
#[test]
fn the_experiment_shows_what_the_table_says() {
    let report = json(&["--experiment"]);
    let trials = report["trials"].as_array().unwrap();
    let happened = |name: &str| {
        let of: Vec<_> = trials.iter().filter(|trial| trial["instruction"] == name).collect();
        assert!(!of.is_empty(), "{name}");
        of.iter().map(|trial| trial["happened"].as_str().unwrap()).collect::<Vec<_>>()
    };
    for trial in trials {
        if trial["privileged"] == true {
            assert!(["trapped", "absent"].contains(&trial["happened"].as_str().unwrap()), "{trial}");
        }
        if trial["happened"] == "made-up" {
            assert!(report["umip"] == true && trial["traps"] == "with UMIP", "{trial}");
        }
        assert!(trial["cycles"].as_u64().is_none_or(|cycles| cycles > 0), "{trial}");
    }
    assert_eq!(happened("popf"), ["silently-ignored"]);
    assert_eq!(happened("iretq"), ["silently-ignored"]);
    assert_eq!(happened("pushf"), ["told-the-truth"]);
    assert_eq!(happened("mov eax,cs"), ["told-the-truth"]);
    assert_eq!(happened("push cs"), ["told-the-truth"]);
    assert_eq!(happened("lar eax,ecx"), ["told-the-truth"; 2]);
    assert_eq!(happened("mov ds,eax"), ["done", "trapped"]);
    assert_eq!(happened("jmp dword far [rdi]"), ["done"]);
    assert_eq!(happened("call dword far [rdi]"), ["done"]);
    assert_eq!(happened("retfq"), ["done"]);
    assert_eq!(happened("int 80h"), ["entered-kernel"]);
    assert_eq!(happened("syscall"), ["entered-kernel"]);
    assert_eq!(happened("int 20h"), ["trapped"]);
    assert_eq!(happened("hlt"), ["trapped"]);
    let sgdt = happened("sgdt [rdi]");
    let without = ["told-the-truth"];
    assert!(sgdt == without || report["umip"] == true && sgdt == ["made-up"], "{sgdt:?}");
    let cpuid = trials.iter().find(|trial| trial["instruction"] == "cpuid").unwrap();
    assert!(cpuid["detail"].as_str().unwrap().starts_with(report["vendor"].as_str().unwrap()), "{cpuid}");
    let pushf = trials.iter().find(|trial| trial["instruction"] == "pushf").unwrap();
    assert_eq!(pushf["detail"], "IF is 1, IOPL is 0");
}

#[test]
fn the_experiment_can_be_read() {
    let (status, stdout, stderr) = run(&mut popf(&["classify", "--experiment"]));
    assert_eq!(status, 0, "{stderr}");
    for word in ["UMIP: ", "silently ignored: asked for IF 0 and IOPL 3, IF is 1 and IOPL 0", "trapped: #GP"]
    {
        assert!(stdout.contains(word), "no {word:?} in {stdout}");
    }
}
