//! `popf doctor`: what this host offers, which engine will run guests, and why.

use std::fmt::Write as _;

use host::cpu::{Feature, Need, TscSource};
use host::kvm::KvmState;
use serde::Serialize;

use crate::args::DoctorArgs;
use crate::error::CliError;
use crate::exit::Failure;
use crate::image::{print, print_json};
use crate::limits;

/// Everything `--json` prints.
#[derive(Serialize)]
struct Report {
    processor: Processor,
    memory: Memory,
    limits: Limits,
    sandbox: Sandbox,
    kvm: Kvm,
    engine: Engine,
    direct: Direct,
}

#[derive(Serialize)]
struct Processor {
    brand: String,
    vendor: String,
    /// How many this process may use.
    count: usize,
    tsc_hz: u64,
    tsc_source: &'static str,
    invariant_tsc: bool,
    /// The translator cannot do without these.
    required: Features,
    /// Handed on to the guest if they are there.
    passed: Features,
}

#[derive(Serialize)]
struct Features {
    present: Vec<&'static str>,
    missing: Vec<&'static str>,
}

#[derive(Serialize)]
struct Memory {
    total: Option<u64>,
    available: Option<u64>,
    /// Limit of the control group, if there is one.
    group_limit: Option<u64>,
}

#[derive(Serialize)]
struct Limits {
    /// RLIMIT_AS in bytes; none is unlimited.
    address_space: Option<u64>,
    /// vm.max_map_count.
    max_map_count: Option<u64>,
}

/// What a guest that breaks out can be kept from with.
#[derive(Serialize)]
struct Sandbox {
    /// Filters of system calls.
    seccomp: bool,
    seccomp_detail: Option<String>,
    /// Version of the interface; none if it is not there.
    landlock: Option<u32>,
    landlock_detail: Option<String>,
}

#[derive(Serialize)]
struct Kvm {
    state: &'static str,
    detail: Option<String>,
}

#[derive(Serialize)]
struct Engine {
    name: Option<&'static str>,
    why: String,
}

/// Whether busy programs of guests can run untranslated.
#[derive(Serialize)]
struct Direct {
    usable: bool,
    detail: Option<String>,
}

/// Looks around and prints what it found; fails if no engine would work.
pub fn run(args: &DoctorArgs) -> Result<u8, CliError> {
    let report = report();
    if args.json {
        print_json(&report)?;
    } else {
        print(format_args!("{}", text(&report)))?;
    }
    Ok(if report.engine.name.is_some() { 0 } else { Failure::Host as u8 })
}

fn report() -> Report {
    let features = host::cpu::features();
    let (tsc_hz, source) = host::cpu::tsc_frequency();
    let required = select(&features, Need::Required);
    let kvm = kvm();
    let engine = engine(&required, &kvm);
    Report {
        processor: Processor {
            brand: host::cpu::brand(),
            vendor: host::cpu::vendor(),
            count: host::system::processors(),
            tsc_hz,
            tsc_source: match source {
                TscSource::Kernel => "kernel",
                TscSource::Hypervisor => "hypervisor",
                TscSource::Crystal => "crystal",
                TscSource::Measured => "measured",
            },
            invariant_tsc: features.iter().any(|feature| feature.name == "constant_tsc" && feature.present),
            required,
            passed: select(&features, Need::Passed),
        },
        memory: Memory {
            total: host::system::total_memory(),
            available: host::system::available_memory(),
            group_limit: host::system::memory_limit().map(|(limit, _)| limit),
        },
        limits: Limits { address_space: limits::address_space(), max_map_count: limits::max_map_count() },
        sandbox: sandbox(),
        kvm,
        engine,
        direct: direct(),
    }
}

fn select(features: &[Feature], need: Need) -> Features {
    let with = |present: bool| {
        let those = |feature: &&Feature| feature.need == need && feature.present == present;
        features.iter().filter(those).map(|feature| feature.name).collect()
    };
    Features { present: with(true), missing: with(false) }
}

fn sandbox() -> Sandbox {
    let host::sandbox::Support { seccomp, landlock } = host::sandbox::support();
    let why = |error| Some(CliError::new(Failure::Host, "not here").because(error).message());
    let (seccomp, seccomp_detail) = match seccomp {
        Ok(()) => (true, None),
        Err(error) => (false, why(error)),
    };
    let (landlock, landlock_detail) = match landlock {
        Ok(version) => (Some(version), None),
        Err(error) => (None, why(error)),
    };
    Sandbox { seccomp, seccomp_detail, landlock, landlock_detail }
}

fn kvm() -> Kvm {
    let (state, detail) = match host::kvm::probe() {
        KvmState::Absent => ("absent", None),
        KvmState::NoPermission => ("no-permission", Some("/dev/kvm is there, but may not be opened".into())),
        KvmState::Unusable { why } => ("unusable", Some(why)),
        KvmState::Usable { exit } => {
            ("usable", Some(format!("an exit takes {:.1} us", exit.as_secs_f64() * 1e6)))
        }
    };
    Kvm { state, detail }
}

/// What `--engine auto` will take.
fn engine(required: &Features, kvm: &Kvm) -> Engine {
    if !required.missing.is_empty() {
        let missing = required.missing.join(", ");
        return Engine { name: None, why: format!("the translator needs of the processor: {missing}") };
    }
    match board::engine::try_translator() {
        Ok(()) => Engine {
            name: Some(board::engine::TRANSLATOR),
            why: match kvm.state {
                "usable" => "KVM works here, but popf has no engine for it yet",
                _ => "it needs no help from the processor or the kernel",
            }
            .into(),
        },
        Err(error) => Engine {
            name: None,
            why: CliError::new(Failure::Host, "the translator cannot be set up").because(error).message(),
        },
    }
}

fn direct() -> Direct {
    let why =
        |error| CliError::new(Failure::Host, "not here, all code is translated").because(error).message();
    let detail = board::engine::try_direct().err().map(why);
    Direct { usable: detail.is_none(), detail }
}

fn text(report: &Report) -> String {
    let Report { processor, memory, limits, sandbox, kvm, engine, direct } = report;
    let mib =
        |bytes: Option<u64>| bytes.map_or_else(|| "unknown".into(), |bytes| format!("{} MiB", bytes >> 20));
    let list = |names: &[&str]| if names.is_empty() { "none".into() } else { names.join(" ") };
    let mut rows = vec![
        ("processor", format!("{} ({}), {} usable", processor.brand, processor.vendor, processor.count)),
        (
            "time-stamp counter",
            format!(
                "{:.3} MHz ({}), {}",
                processor.tsc_hz as f64 / 1e6,
                processor.tsc_source,
                if processor.invariant_tsc { "constant" } else { "not constant: guests' clocks may drift" }
            ),
        ),
        ("needed features", list(&processor.required.present)),
    ];
    if !processor.required.missing.is_empty() {
        rows.push(("  missing", list(&processor.required.missing)));
    }
    rows.push(("passed to guests", list(&processor.passed.present)));
    rows.push(("  not here", list(&processor.passed.missing)));
    rows.push(("memory", format!("{}, {} available", mib(memory.total), mib(memory.available))));
    if memory.group_limit.is_some() {
        rows.push(("  group limit", mib(memory.group_limit)));
    }
    let unlimited = |limit: Option<u64>| limit.map_or_else(|| "unlimited".into(), |_| mib(limit));
    rows.push(("address space", unlimited(limits.address_space)));
    if let Some(count) = limits.max_map_count {
        rows.push(("mappings", format!("{count} at most")));
    }
    rows.push(("seccomp", sandbox.seccomp_detail.clone().unwrap_or_else(|| "usable".into())));
    let landlock = sandbox.landlock.map(|version| format!("usable, version {version}"));
    rows.push(("Landlock", landlock.or(sandbox.landlock_detail.clone()).unwrap_or_default()));
    let detail = kvm.detail.as_deref().map_or_else(String::new, |detail| format!(": {detail}"));
    rows.push(("KVM", format!("{}{detail}", kvm.state)));
    rows.push(("engine", format!("{}: {}", engine.name.unwrap_or("none"), engine.why)));
    rows.push(("direct execution", direct.detail.clone().unwrap_or_else(|| "usable".into())));
    let mut text = String::new();
    for (name, value) in rows {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{name:<20}{value}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn features(missing: Vec<&'static str>) -> Features {
        Features { present: Vec::new(), missing }
    }

    #[test]
    fn a_missing_feature_leaves_no_engine() {
        let kvm = Kvm { state: "absent", detail: None };
        let engine = engine(&features(vec!["cx16"]), &kvm);
        assert!(engine.name.is_none() && engine.why.contains("cx16"));
    }

    #[test]
    fn text_and_json_tell_the_same_engine() {
        let report = report();
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["engine"]["name"], "translator");
        assert_eq!(json["direct"]["usable"], report.direct.usable);
        assert!(json["memory"]["total"].as_u64().unwrap() > 0);
        assert!(text(&report).contains("\nengine              translator: "));
    }
}
