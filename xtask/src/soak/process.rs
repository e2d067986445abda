//! What Linux says of a process: proc(5), `stat` and `smaps`.

use std::fs;
use std::time::{Duration, Instant};

use serde::Serialize;

/// Processor time that a process has used.
pub struct Usage {
    pub at: Instant,
    pub processor: Duration,
}

impl Usage {
    pub fn of(pid: u32) -> Result<Self, String> {
        let text = read(pid, "stat")?;
        let processor = processor_time(&text).ok_or("cannot make sense of the process's stat")?;
        Ok(Self { at: Instant::now(), processor })
    }
}

/// Resident memory by what it is for; a page that several mappings share counts once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Memory {
    pub guest_kib: u64,
    pub translation_kib: u64,
    /// Anonymous memory.
    pub private_kib: u64,
    pub files_kib: u64,
}

impl Memory {
    pub fn of(pid: u32) -> Result<Self, String> {
        Ok(by_purpose(&read(pid, "smaps")?))
    }
}

fn read(pid: u32, file: &str) -> Result<String, String> {
    let path = format!("/proc/{pid}/{file}");
    fs::read_to_string(&path).map_err(|error| format!("cannot read {path}: {error}"))
}

/// User and system time, fields 14 and 15; the name in field 2 may contain anything.
fn processor_time(stat: &str) -> Option<Duration> {
    /// Clock ticks in a second (`USER_HZ`, the same on all of x86).
    const TICK: Duration = Duration::from_millis(10);
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split(' ').skip(11);
    let ticks = fields.next()?.parse::<u32>().ok()? + fields.next()?.parse::<u32>().ok()?;
    Some(TICK * ticks)
}

fn by_purpose(smaps: &str) -> Memory {
    let mut memory = Memory::default();
    let mut name = "";
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("Pss:") => {
                let kib: u64 = words.next().and_then(|kib| kib.parse().ok()).unwrap_or(0);
                *match name {
                    _ if name.starts_with("/memfd:translation") => &mut memory.translation_kib,
                    _ if name.starts_with("/memfd:") => &mut memory.guest_kib,
                    _ if name.starts_with('/') => &mut memory.files_kib,
                    _ => &mut memory.private_kib,
                } += kib;
            }
            // address, rights, offset, device, inode, and the name if it has one.
            Some(first) if !first.ends_with(':') => name = words.nth(4).unwrap_or(""),
            _ => {}
        }
    }
    memory
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_behind_any_name() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 3 0 9 1 2";
        assert_eq!(processor_time(stat), Some(Duration::from_secs(3)));
        assert_eq!(processor_time("7 (a) S 1"), None);
    }

    #[test]
    fn memory_is_parted() {
        let smaps = "\
10000-20000 rw-s 00000000 00:01 5   /memfd:guest memory (deleted)
Rss:   900 kB
Pss:   400 kB
20000-30000 rw-s 00000000 00:01 5   /memfd:guest memory (deleted)
Pss:   100 kB
30000-40000 r-xs 00000000 00:01 6   /memfd:translation-cache (deleted)
Pss:   30 kB
40000-50000 rw-p 00000000 00:00 0
Pss:   7 kB
50000-60000 rw-p 00000000 00:00 0   [heap]
Pss:   1 kB
60000-70000 r-xp 00000000 08:01 99  /usr/bin/popf
Pss:   2 kB
";
        let parted = Memory { guest_kib: 500, translation_kib: 30, private_kib: 8, files_kib: 2 };
        assert_eq!(by_purpose(smaps), parted);
    }

    #[test]
    fn this_process_is_measured() {
        let own = std::process::id();
        let memory = Memory::of(own).unwrap();
        assert!(memory.private_kib > 0 && memory.files_kib > 0 && memory.guest_kib == 0, "{memory:?}");
        assert!(Usage::of(own).is_ok());
    }
}
