//! The guide's labs do what it says they do. Those that boot a guest are marked, and only looked at.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A command, and what the guide says of its output: lines in order, `...` for any number of lines and, within a line,
/// for any text.
struct Lab {
    page: String,
    command: String,
    shown: Vec<String>,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Every command of every page's blocks of this kind.
fn labs(kind: &str) -> Vec<Lab> {
    let mut labs: Vec<Lab> = Vec::new();
    let pages = fs::read_dir(root().join("docs/guide/src")).unwrap();
    for page in pages.map(|page| page.unwrap().path()) {
        let text = fs::read_to_string(&page).unwrap();
        let mut inside = false;
        for line in text.lines() {
            match line.strip_prefix("```") {
                Some(fence) => inside = !inside && fence == kind,
                None if !inside => {}
                None => match line.strip_prefix("$ ") {
                    Some(command) => labs.push(Lab {
                        page: page.file_name().unwrap().to_string_lossy().into_owned(),
                        command: command.to_owned(),
                        shown: Vec::new(),
                    }),
                    None => labs.last_mut().unwrap().shown.push(line.to_owned()),
                },
            }
        }
    }
    labs
}

/// Standard output and standard error, in this order, as a terminal would show them of a program that ends with its
/// messages.
fn output(command: &str) -> String {
    let popf = Path::new(env!("CARGO_BIN_EXE_popf"));
    let path = format!("{}:{}", popf.parent().unwrap().display(), std::env::var("PATH").unwrap_or_default());
    let mut shell = Command::new("sh");
    let output = shell.args(["-c", command]).current_dir(root()).env("PATH", path).output().unwrap();
    let [stdout, stderr] =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    assert!(output.status.success(), "{command}: {stderr}");
    let newline = if stdout.ends_with('\n') || stdout.is_empty() { "" } else { "\n" };
    format!("{stdout}{newline}{stderr}")
}

/// Whether a line is as it is shown: its parts, between dots, in order.
fn is_line(line: &str, shown: &str) -> bool {
    let mut rest = line;
    let parts: Vec<&str> = shown.split("...").collect();
    for (n, part) in parts.iter().enumerate() {
        let (first, last) = (n == 0, n + 1 == parts.len());
        let Some(at) = (if last && !first { rest.rfind(part) } else { rest.find(part) }) else {
            return false;
        };
        let end = at + part.len();
        if first && at != 0 || last && end != rest.len() {
            return false;
        }
        rest = &rest[end..];
    }
    true
}

#[test]
fn labs_show_what_happens() {
    let labs = labs("console");
    assert!(labs.len() > 12, "{}", labs.len());
    for Lab { page, command, shown } in labs {
        let output = output(&command);
        let mut lines = output.lines();
        let mut anything = false;
        for line in &shown {
            if line == "..." {
                anything = true;
                continue;
            }
            let found = if anything {
                lines.any(|real| is_line(real, line))
            } else {
                lines.next().is_some_and(|real| is_line(real, line))
            };
            assert!(found, "{page}: `{command}` does not show {line:?} there, but\n{output}");
            anything = false;
        }
        let left: Vec<_> = lines.collect();
        assert!(anything || left.is_empty(), "{page}: `{command}` shows more: {left:?}");
    }
}

/// Each names a command that there is, with arguments that it takes as far as can be told without running it.
#[test]
fn labs_with_guests_name_commands() {
    let labs = labs("console,guest");
    assert!(labs.len() > 2);
    for Lab { page, command, .. } in labs {
        let words: Vec<&str> = command.split_whitespace().collect();
        assert!(
            words[0] == "popf" && ["run", "scan", "trace", "top", "kill"].contains(&words[1]),
            "{page}: {command}"
        );
        let help = output(&format!("popf {} --help", words[1]));
        let flags = words[2..].iter().take_while(|word| **word != "--").filter(|word| word.starts_with("--"));
        for flag in flags {
            assert!(help.contains(flag), "{page}: {command}: no {flag}");
        }
    }
}

#[test]
fn every_page_is_in_the_summary() {
    let folder = root().join("docs/guide/src");
    let summary = fs::read_to_string(folder.join("SUMMARY.md")).unwrap();
    for page in fs::read_dir(&folder).unwrap() {
        let name = page.unwrap().file_name().to_string_lossy().into_owned();
        assert!(name == "SUMMARY.md" || summary.contains(&format!("({name})")), "{name}");
    }
}
