//! Single steps that were taken down from an 80286, in real mode, under the translator: registers and memory must come
//! out as they did there, but where a later processor is documented to differ (see [`differs`]).
//!
//! The steps are SingleStepTests' set of the 80286 (MIT licence), 1.5 million of them, and no part of popf. `POPF_80286`
//! names a folder with its unpacked files (`*.MOO`); without it there is nothing to run.

#[path = "../common/mod.rs"]
mod common;
mod differs;
#[path = "../common/flags.rs"]
mod flags;
mod machine;
mod moo;
#[path = "../common/plain.rs"]
mod plain;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Mutex;
use std::{fs, thread};

use machine::Machine;

#[derive(Default)]
struct Total {
    agreed: usize,
    /// By why they are not compared.
    excused: BTreeMap<&'static str, usize>,
    wrong: Vec<String>,
}

/// Told at most of one file.
const MOST_REPORTS: usize = 3;

#[test]
fn an_80286_in_real_mode() {
    let Some(folder) = std::env::var_os("POPF_80286") else {
        println!("POPF_80286 names no folder with steps of an 80286");
        return;
    };
    let list = fs::read_dir(&folder).expect("the folder that POPF_80286 names");
    let mut files: Vec<PathBuf> = list.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "MOO"));
    files.sort();
    assert!(!files.is_empty(), "no file of steps in {folder:?}");
    let (files, total) = (Mutex::new(files), Mutex::new(Total::default()));
    let work = || {
        let mut machine = Machine::new();
        while let Some(path) = { files.lock().unwrap().pop() } {
            let bytes = fs::read(&path).expect("a file");
            let steps = moo::parse(&bytes).unwrap_or_else(|| panic!("{}: not understood", path.display()));
            let name = path.file_stem().unwrap_or_default().to_string_lossy();
            let mut wrong = Vec::new();
            for (number, step) in steps.iter().enumerate() {
                if let Some(why) = differs::why(step) {
                    *total.lock().unwrap().excused.entry(why).or_default() += 1;
                    continue;
                }
                match machine.run(step) {
                    found if found.is_empty() => total.lock().unwrap().agreed += 1,
                    found => wrong.push(format!("{name} {number}: {}: {}", step.name, found.join("; "))),
                }
            }
            let more = wrong.len();
            wrong.truncate(MOST_REPORTS);
            if more > wrong.len() {
                wrong.push(format!("{name}: {more} in all"));
            }
            total.lock().unwrap().wrong.extend(wrong);
        }
    };
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    let mut total = total.into_inner().unwrap();
    println!("{} steps came out as on the 80286", total.agreed);
    total.excused.iter().for_each(|(why, count)| println!("{count} left out: {why}"));
    total.wrong.sort();
    assert!(total.wrong.is_empty(), "{}", total.wrong.join("\n"));
}
