//! What the host has, and how much of it is left for us.
#![allow(unsafe_code)] // System calls.

use std::fs;
use std::path::Path;

/// The host's memory in bytes. Asked without a file: a machine that starts again can open none.
pub fn total_memory() -> Option<u64> {
    // SAFETY: the call fills a plain structure.
    let info = unsafe {
        let mut info: libc::sysinfo = std::mem::zeroed();
        (libc::sysinfo(&mut info) == 0).then_some(info)
    }?;
    Some(info.totalram.saturating_mul(info.mem_unit.into()))
}

/// Bytes that can be used without swapping, by the kernel's estimate, and within the limit of our control group.
pub fn available_memory() -> Option<u64> {
    let available = meminfo("MemAvailable:")?;
    Some(match memory_limit() {
        Some((limit, used)) => available.min(limit.saturating_sub(used)),
        None => available,
    })
}

/// The limit of our memory control group and what is used of it, if it has one.
pub fn memory_limit() -> Option<(u64, u64)> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    // Version 2 has one line, "0::/path".
    let path = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let mut tightest: Option<(u64, u64)> = None;
    let root = Path::new("/sys/fs/cgroup");
    // Every ancestor's limit holds too.
    for group in root.join(path).ancestors().take_while(|group| group.starts_with(root)) {
        let number = |file: &str| fs::read_to_string(group.join(file)).ok()?.trim().parse::<u64>().ok();
        if let (Some(limit), Some(used)) = (number("memory.max"), number("memory.current"))
            && tightest.is_none_or(|(other, other_used)| {
                limit.saturating_sub(used) < other.saturating_sub(other_used)
            })
        {
            tightest = Some((limit, used));
        }
    }
    tightest
}

/// Processors this process may run on.
pub fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Resident memory of this process in bytes: all of it, and the part that is shared mappings such as guest RAM.
pub fn resident_memory() -> Option<(u64, u64)> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    Some((field(&status, "VmRSS:")?, field(&status, "RssShmem:")?))
}

/// Lets this process open as many descriptors as its hard limit allows, and says how many that is. The soft limit is
/// low for the sake of programs that use select(2), which we do not.
pub fn raise_descriptor_limit() -> usize {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the value is ours.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return 1024;
    }
    let raised = libc::rlimit { rlim_cur: limit.rlim_max, ..limit };
    // SAFETY: as above.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const raised) } == 0 {
        limit = raised;
    }
    usize::try_from(limit.rlim_cur).unwrap_or(usize::MAX)
}

fn meminfo(name: &str) -> Option<u64> {
    field(&fs::read_to_string("/proc/meminfo").ok()?, name)
}

/// The value of a line `name   1234 kB`, in bytes.
fn field(text: &str, name: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_adds_up() {
        let total = total_memory().unwrap();
        let available = available_memory().unwrap();
        assert!(available <= total && total > 64 << 20, "{available} of {total}");
        let (all, shared) = resident_memory().unwrap();
        assert!(shared <= all && all > 0 && all < total);
    }

    #[test]
    fn descriptors_are_allowed_up_to_the_hard_limit() {
        let count = raise_descriptor_limit();
        assert!(count >= 256);
        assert_eq!(raise_descriptor_limit(), count);
    }

    #[test]
    fn fields_are_parsed_and_nonsense_is_not() {
        let text = "MemTotal:       16 kB\nOdd: x kB\nPlain: 5\n";
        assert_eq!(field(text, "MemTotal:"), Some(16384));
        assert_eq!(field(text, "Odd:"), None);
        assert_eq!(field(text, "Plain:"), None);
        assert_eq!(field(text, "Missing:"), None);
    }
}
