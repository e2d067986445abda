//! The tables of `docs/equivalence.md`: each known exception names a test that shows it, and the test is there.

use std::fs;
use std::path::Path;

const PAGE: &str = "docs/equivalence.md";
/// Where tests stand, and the rules of the differential test.
const ROOTS: [&str; 7] = ["arch", "control", "engines", "host", "machine", "monitor", "tests"];
/// Where the files stand that are named without a folder.
const FOLDER: &str = "engines/translator/tests";

/// Each row; an error names those whose tests are missing.
pub fn check() -> Result<(), String> {
    let page = read(Path::new(PAGE))?;
    let mut code = String::new();
    for root in ROOTS {
        collect(Path::new(root), &mut code)?;
    }
    let there = |name: &str| Path::new(name).exists() || Path::new(FOLDER).join(name).exists();
    let wrong: Vec<_> = rows(&page).filter_map(|row| missing(row, &code, there)).collect();
    if wrong.is_empty() {
        println!("{} exceptions have tests", rows(&page).count());
        return Ok(());
    }
    wrong.iter().for_each(|line| eprintln!("{PAGE}: {line}"));
    Err(format!("{} exceptions without a test", wrong.len()))
}

fn read(path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| format!("cannot read {}: {error}", path.display()))
}

/// All sources below a folder, one behind the other.
fn collect(folder: &Path, code: &mut String) -> Result<(), String> {
    let list = fs::read_dir(folder).map_err(|error| format!("cannot list {}: {error}", folder.display()))?;
    for path in list.filter_map(|entry| Some(entry.ok()?.path())) {
        if path.is_dir() {
            collect(&path, code)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            code.push_str(&read(&path)?);
        }
    }
    Ok(())
}

/// The rows of tables whose last column is for tests, without their heads.
fn rows(page: &str) -> impl Iterator<Item = &str> {
    let mut inside = false;
    page.lines().filter(move |line| {
        let is_head = line.ends_with("| test |");
        inside = line.starts_with('|') && (inside || is_head);
        inside && !is_head && !line.starts_with("| ---")
    })
}

/// What is wrong with a row: no test in its last column, or one that is not there.
fn missing(row: &str, code: &str, there: impl Fn(&str) -> bool) -> Option<String> {
    let mut columns = row.trim_matches('|').split('|').map(str::trim);
    let (what, tests) = (columns.next()?, columns.next_back()?);
    let mut tests = tests.split('`').skip(1).step_by(2).peekable();
    if tests.peek().is_none() {
        return Some(format!("{what}: no test"));
    }
    let is_place = |name: &str| name.contains(['/', '.']);
    let known = |name: &str| if is_place(name) { there(name) } else { code.contains(&format!("fn {name}(")) };
    tests.find(|name| !known(name)).map(|name| format!("{what}: there is no {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_want_tests_that_are_there() {
        let page = "| what | why | test |\n| --- | --- | --- |\n| a | `b` | `c.rs`: `d` |\ntext\n| x |\n| --- |\n| y |\n";
        assert_eq!(rows(page).collect::<Vec<_>>(), ["| a | `b` | `c.rs`: `d` |"]);
        let missing = |row, code| missing(row, code, |name| name == "c.rs");
        assert_eq!(missing("| a | `b` | `c.rs`: `d` |", "fn d() {}"), None);
        assert!(missing("| a | `b` | `c.rs`: `d` |", "fn dd() {}").unwrap().contains("no d"));
        assert!(missing("| a | `b` | `e.rs`: `d` |", "fn d() {}").unwrap().contains("no e.rs"));
        assert!(missing("| a | `b` | c |", "fn c() {}").unwrap().contains("no test"));
    }
}
