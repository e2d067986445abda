//! Links of the documentation: each that leads to a file leads to one that is there.
//!
//! The guide is also built as a book, in which there is nothing but its own pages: its links stay among them.

use std::fs;
use std::path::{Path, PathBuf};

/// Where pages are looked for.
const ROOTS: [&str; 12] = [
    ".",
    "docs",
    "docs/guide/src",
    "arch",
    "control",
    "engines",
    "fuzz",
    "host",
    "machine",
    "monitor",
    "state",
    "tests",
];
/// The book.
const GUIDE: &str = "docs/guide/src";

/// Every page's links; an error names those that lead nowhere.
pub fn check() -> Result<(), String> {
    let mut wrong = Vec::new();
    let mut count = 0;
    for root in ROOTS {
        let list = fs::read_dir(root).map_err(|error| format!("cannot list {root}: {error}"))?;
        let mut pages: Vec<PathBuf> = list.filter_map(|entry| Some(entry.ok()?.path())).collect();
        pages.retain(|page| page.extension().is_some_and(|extension| extension == "md"));
        pages.sort();
        for page in pages {
            let text = fs::read_to_string(&page)
                .map_err(|error| format!("cannot read {}: {error}", page.display()))?;
            for target in targets(&text) {
                count += 1;
                if let Some(why) = broken(Path::new(root), target, Path::exists) {
                    wrong.push(format!("{}: {target}: {why}", page.display()));
                }
            }
        }
    }
    if wrong.is_empty() {
        println!("{count} links lead somewhere");
        return Ok(());
    }
    wrong.iter().for_each(|line| eprintln!("{line}"));
    Err(format!("{} links lead nowhere", wrong.len()))
}

/// Where a page's links lead, those of its code left out.
fn targets(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut inside = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            inside = !inside;
        }
        if inside {
            continue;
        }
        let mut rest = line;
        while let Some((_, behind)) = rest.split_once("](") {
            let Some((target, behind)) = behind.split_once(')') else { break };
            found.push(target);
            rest = behind;
        }
    }
    found
}

/// What is wrong with a link of a page in this folder.
fn broken(folder: &Path, target: &str, exists: impl Fn(&Path) -> bool) -> Option<&'static str> {
    let (file, _) = target.split_once('#').unwrap_or((target, ""));
    if file.is_empty() || file.contains("://") || file.starts_with("mailto:") {
        return None;
    }
    if folder == Path::new(GUIDE) && file.contains('/') {
        return Some("the book has nothing but its own pages");
    }
    (!exists(&folder.join(file))).then_some("there is no such file")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_found_outside_of_code() {
        let text = "[a](one.md) and [b](two.md#part), ![c](x.svg)\n```\n[d](not.md)\n```\n[e](broken";
        assert_eq!(targets(text), ["one.md", "two.md#part", "x.svg"]);
    }

    #[test]
    fn what_leads_nowhere_is_told() {
        let there = |path: &Path| path == Path::new("docs/TERMS.md");
        let docs = Path::new("docs");
        assert_eq!(broken(docs, "TERMS.md#agent", there), None);
        assert_eq!(broken(docs, "https://example.org/x", there), None);
        assert_eq!(broken(docs, "#here", there), None);
        assert!(broken(docs, "terms.md", there).is_some());
        assert!(broken(Path::new(GUIDE), "../../TERMS.md", |_| true).is_some());
    }
}
