//! The list of entries, `unittests.cfg` (kvm-unit-tests, docs/unittests.md): sections of `key = value`, each one run
//! of a program. Values are pieces of a shell's command line, of which quotes and command substitution occur.

use std::process::Command;

/// One entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    pub name: String,
    pub file: String,
    pub smp: u32,
    pub test_args: String,
    /// Arguments for QEMU, beside those that every entry gets.
    pub qemu_params: Vec<String>,
    pub groups: Vec<String>,
    /// Where it makes sense; anywhere if empty.
    pub arch: String,
    /// The one accelerator it is for; any if empty.
    pub accel: String,
    /// Files of the host that must hold a value.
    pub check: Vec<(String, String)>,
    /// Seconds, if it says.
    pub timeout: Option<u64>,
}

impl Entry {
    /// MiB of memory: what QEMU has by default, unless it says otherwise.
    pub fn memory_mib(&self) -> u64 {
        let after = self.qemu_params.iter().skip_while(|word| *word != "-m").nth(1);
        let Some(size) = after.map(|size| size.to_ascii_lowercase()) else { return 128 };
        match size.strip_suffix('g') {
            Some(gib) => gib.parse::<u64>().map_or(128, |gib| gib << 10),
            None => size.trim_end_matches('m').parse().unwrap_or(128),
        }
    }
}

/// Reads the list.
pub fn parse(text: &str) -> Result<Vec<Entry>, String> {
    let mut entries: Vec<Entry> = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let wrong = || format!("line {number} of the list makes no sense: {line}");
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            entries.push(Entry { name: name.into(), smp: 1, ..Entry::default() });
            continue;
        }
        let entry = entries.last_mut().ok_or_else(wrong)?;
        let (key, value) = line.split_once('=').ok_or_else(wrong)?;
        let value = value.split(" #").next().unwrap_or_default().trim();
        match key.trim() {
            "file" => entry.file = value.into(),
            "smp" => entry.smp = value.parse().map_err(|_| wrong())?,
            "test_args" => entry.test_args = expand(unquote(value))?,
            "qemu_params" | "extra_params" => entry.qemu_params = words(value),
            "groups" => entry.groups = words(value),
            "arch" => entry.arch = value.into(),
            "accel" => entry.accel = value.into(),
            "timeout" => entry.timeout = Some(value.trim_end_matches('s').parse().map_err(|_| wrong())?),
            "check" => {
                let pairs = value.split_whitespace().map(|pair| pair.split_once('=').ok_or_else(wrong));
                entry.check =
                    pairs.map(|pair| pair.map(|(a, b)| (a.into(), b.into()))).collect::<Result<_, _>>()?;
            }
            // Other architectures' and other monitors' business.
            _ => {}
        }
    }
    Ok(entries)
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(Into::into).collect()
}

fn unquote(text: &str) -> &str {
    let inside = |quote: char| text.strip_prefix(quote).and_then(|text| text.strip_suffix(quote));
    inside('\'').or_else(|| inside('"')).unwrap_or(text)
}

/// Has a shell fill in what stands in backquotes.
fn expand(text: &str) -> Result<String, String> {
    let mut out = String::new();
    for (index, piece) in text.split('`').enumerate() {
        if index % 2 == 0 {
            out.push_str(piece);
        } else {
            let answer = crate::bench::boot::output(Command::new("sh").args(["-c", piece]))?;
            out.push_str(answer.trim_end());
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_read() {
        let text = "\
# a comment
[first]
file = a.flat   # with a comment
smp = 2
test_args = 'one two'
qemu_params = -cpu max,+x -m 2g
groups = x nodefault
timeout = 30s

#[off]
#file = off.flat
[second]
file = b.flat
test_args = \"n `printf 7`\"
check = /proc/x=Y /proc/z=0
arch = i386
accel = kvm
";
        let entries = parse(text).unwrap();
        let first = Entry {
            name: "first".into(),
            file: "a.flat".into(),
            smp: 2,
            test_args: "one two".into(),
            qemu_params: ["-cpu", "max,+x", "-m", "2g"].map(Into::into).into(),
            groups: ["x", "nodefault"].map(Into::into).into(),
            timeout: Some(30),
            ..Entry::default()
        };
        assert_eq!(entries[0], first);
        assert_eq!(entries[0].memory_mib(), 2048);
        assert_eq!((entries[1].smp, entries[1].memory_mib()), (1, 128));
        assert_eq!(entries[1].test_args, "n 7");
        assert_eq!(entries[1].check, [("/proc/x", "Y"), ("/proc/z", "0")].map(|(a, b)| (a.into(), b.into())));
        assert_eq!((entries[1].arch.as_str(), entries[1].accel.as_str(), entries.len()), ("i386", "kvm", 2));
    }

    #[test]
    fn nonsense_is_told() {
        assert!(parse("file = a.flat").is_err());
        assert!(parse("[a]\nwhat").unwrap_err().contains("line 2"));
        assert!(parse("[a]\nsmp = many").is_err());
    }
}
