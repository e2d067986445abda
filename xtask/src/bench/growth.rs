//! `cargo xtask bench growth`: whether the cost of one more grows with how many there are, or falls off a cliff: functions
//! that a program has, until the translation cache holds a tenth of them; processes in a ring; pages of memory.
//!
//! The guest (`xtask/guest/growth.rs`) measures; the same kernel, program and memory under popf and under QEMU's TCG. How
//! many functions a translation cache holds is measured first, and QEMU's is given the same size.

mod picture;

use std::path::PathBuf;
use std::process::{Command, Stdio};

use clap::{Args, ValueEnum};
use serde::Serialize;

use super::boot::{self, Image, QEMU, output, version};
use super::median;
use crate::guest;

const SOURCE: &str = "xtask/guest/growth.rs";
const IMAGE: &str = "debian";
const POPF: &str = "popf";
/// popf that runs nothing directly: the program whose code grows is found busy otherwise, and needs no translation cache.
const TRANSLATED: &str = "popf --direct off";
const TCG: &str = "qemu";
/// The translation cache where code grows: smaller than it usually is, so that it can be seen to overflow.
const CACHE_MIB: u32 = 32;
/// Sizes in hundredths of what the cache holds.
const FILLS: [usize; 15] = [1, 3, 10, 25, 50, 70, 80, 90, 100, 120, 150, 200, 300, 500, 1000];
const PROCESSES: [usize; 9] = [2, 8, 32, 64, 128, 256, 512, 1000, 2000];
const MEMORY_MIB: [usize; 7] = [64, 128, 256, 512, 1024, 2048, 4096];

/// `cargo xtask bench growth`.
#[derive(Args)]
pub struct GrowthArgs {
    /// How often each is measured.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Only this; may be given several times.
    #[arg(long, value_enum, value_name = "WHAT")]
    only: Vec<What>,
    /// Leave QEMU out.
    #[arg(long, value_name = "PEER", value_parser = ["qemu"])]
    without: Vec<String>,
    /// Draw the curves, as an SVG.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Print the figures as JSON, on standard output.
    #[arg(long)]
    json: bool,
}

/// What there are more and more of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
enum What {
    Code,
    Processes,
    Memory,
}

impl What {
    /// As the guest's command line has it.
    fn name(self) -> &'static str {
        match self {
            Self::Code => "code",
            Self::Processes => "processes",
            Self::Memory => "memory",
        }
    }

    /// Who is compared.
    fn peers(self) -> &'static [&'static str] {
        match self {
            Self::Code => &[POPF, TRANSLATED, TCG],
            Self::Processes | Self::Memory => &[POPF, TCG],
        }
    }

    fn guest_mib(self) -> u32 {
        match self {
            Self::Code => 1024,
            Self::Processes => 2048,
            Self::Memory => 6144,
        }
    }
}

/// The cost of one at one size, in nanoseconds.
#[derive(Clone, Debug, Serialize)]
struct Point {
    size: f64,
    nanoseconds: f64,
}

#[derive(Clone, Debug, Serialize)]
struct Curve {
    what: &'static str,
    peer: &'static str,
    points: Vec<Point>,
}

#[derive(Serialize)]
struct Report {
    benchmark: &'static str,
    rounds: u32,
    versions: Vec<String>,
    cache_mib: u32,
    /// As many functions of the guest's fill the cache; the sizes of `code` and `code-first` are in these.
    #[serde(skip_serializing_if = "Option::is_none")]
    cache_holds: Option<usize>,
    curves: Vec<Curve>,
}

/// What a guest has said: the curve, the size, the nanoseconds, the check.
type Line = (String, usize, f64, String);

struct Bench {
    popf: PathBuf,
    image: Image,
    root: PathBuf,
}

/// Measures, prints and draws.
pub fn run(args: &GrowthArgs) -> Result<(), String> {
    let popf = boot::build()?;
    let image = boot::find_image(&popf, IMAGE)?;
    let workshop = tempfile::tempdir().map_err(|error| format!("no temporary folder: {error}"))?;
    let root = workshop.path().join("root.raw");
    guest::make_root(SOURCE, &["growth"], &root, "64M")?;
    let bench = Bench { popf, image, root };
    let is_wanted = |peer: &str| !args.without.iter().any(|left_out| left_out == peer);
    let (mut curves, mut cache_holds) = (Vec::new(), None);
    for what in What::value_variants() {
        if !args.only.is_empty() && !args.only.contains(what) {
            continue;
        }
        let sizes = match what {
            What::Code => {
                let holds = bench.cache_holds()?;
                cache_holds = Some(holds);
                FILLS.map(|fill| holds * fill / 100).to_vec()
            }
            What::Processes => PROCESSES.to_vec(),
            What::Memory => MEMORY_MIB.to_vec(),
        };
        let unit = if *what == What::Code { cache_holds.unwrap_or(1) as f64 } else { 1.0 };
        let peers: Vec<_> = what.peers().iter().copied().filter(|peer| is_wanted(peer)).collect();
        curves.extend(bench.curves(*what, &sizes, unit, &peers, args.rounds)?);
    }
    let mut versions = vec![version(Command::new(&bench.popf))?];
    if is_wanted(TCG) {
        versions.push(version(Command::new(QEMU))?);
    }
    let report = Report {
        benchmark: "growth",
        rounds: args.rounds,
        versions,
        cache_mib: CACHE_MIB,
        cache_holds,
        curves,
    };
    if let Some(path) = &args.svg {
        picture::draw(path, &report)?;
    }
    print(&report, args.json)
}

impl Bench {
    /// All peers in turns; what they compute has to agree.
    fn curves(
        &self,
        what: What,
        sizes: &[usize],
        unit: f64,
        peers: &[&'static str],
        rounds: u32,
    ) -> Result<Vec<Curve>, String> {
        let mut lines: Vec<(&'static str, Line)> = Vec::new();
        for round in 0..rounds as usize {
            for turn in 0..peers.len() {
                // Who goes first changes, so that nobody always finds the other's cold or hot machine.
                let peer = peers[(turn + round) % peers.len()];
                eprintln!("round {}: {} {peer}", round + 1, what.name());
                let said = measure(&mut self.command(peer, what, sizes)?)?;
                lines.extend(said.into_iter().map(|line| (peer, line)));
            }
        }
        agree(&lines)?;
        let mut curves: Vec<Curve> = Vec::new();
        for (peer, (name, size, ..)) in &lines {
            let Some(name) = NAMES.into_iter().find(|known| known == name) else {
                return Err(format!("the guest has measured {name}, which nobody knows"));
            };
            let same = |(other, line): &&(&str, Line)| (other, &line.0[..], line.1) == (peer, name, *size);
            let times: Vec<f64> = lines.iter().filter(same).map(|(_, line)| line.2).collect();
            let at = curves.iter().position(|curve| (curve.what, curve.peer) == (name, *peer));
            let at = at.unwrap_or_else(|| {
                curves.push(Curve { what: name, peer, points: Vec::new() });
                curves.len() - 1
            });
            let point = Point { size: *size as f64 / unit, nanoseconds: median(&times) };
            if curves[at].points.iter().all(|known| known.size < point.size) {
                curves[at].points.push(point);
            }
        }
        Ok(curves)
    }

    fn command(&self, peer: &str, what: What, sizes: &[usize]) -> Result<Command, String> {
        let image = Image { disk: Some(self.root.clone()), ..self.image.clone() };
        let sizes: Vec<_> = sizes.iter().map(usize::to_string).collect();
        let words = format!("growth.curve={} growth.sizes={}", what.name(), sizes.join(","));
        let cmdline = format!("{} {words}", guest::cmdline("/growth"));
        let mut command = match peer {
            TCG => boot::qemu_command(&image, &cmdline, what.guest_mib()),
            _ => boot::popf_command(&self.popf, &image, &cmdline, what.guest_mib()),
        };
        if what == What::Code {
            match peer {
                TCG => command = with_cache(&command),
                _ => _ = command.args(["--translation-cache", &format!("{CACHE_MIB}M")]),
            }
        }
        if peer == TRANSLATED {
            command.args(["--direct", "off"]);
        }
        command.stdin(Stdio::null());
        Ok(command)
    }

    /// How many functions popf's cache holds, by how much more code two numbers of them make.
    fn cache_holds(&self) -> Result<usize, String> {
        const FEWER: usize = 2_000;
        const MORE: usize = 8_000;
        let bytes = |functions| {
            let mut command = self.command(TRANSLATED, What::Code, &[functions])?;
            let output =
                command.arg("--stats").output().map_err(|error| format!("cannot start popf: {error}"))?;
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            bytes_in_cache(&text).ok_or(format!("popf tells no size of its cache:\n{text}"))
        };
        let each = (bytes(MORE)? - bytes(FEWER)?) / (MORE - FEWER) as f64;
        if each <= 0.0 {
            return Err("more functions make no more code: the cache has been emptied in between".into());
        }
        Ok((f64::from(CACHE_MIB << 20) / each) as usize)
    }
}

/// QEMU with a cache for translated code as large as popf's. Of several accelerators that are given the first is taken.
fn with_cache(qemu: &Command) -> Command {
    let mut command = Command::new(qemu.get_program());
    let accelerator = format!("tcg,tb-size={CACHE_MIB}");
    command.args(qemu.get_args().map(|word| if word == "tcg" { accelerator.as_ref() } else { word }));
    command
}

/// All names that the guest gives its curves.
const NAMES: [&str; 5] = ["code-first", "code", "processes", "memory-first", "memory"];

fn bytes_in_cache(stats: &str) -> Option<f64> {
    let line = stats.lines().find(|line| line.ends_with("bytes of translated code in the cache"))?;
    line.split_whitespace().next()?.parse().ok()
}

fn measure(command: &mut Command) -> Result<Vec<Line>, String> {
    let text = output(command)?;
    if !text.lines().any(|line| line.trim() == "done") {
        return Err(format!("the guest has not come to its end:\n{text}"));
    }
    Ok(text.lines().filter_map(line).collect())
}

/// `result CURVE SIZE NANOSECONDS CHECK`
fn line(line: &str) -> Option<Line> {
    let words: Vec<_> = line.trim().strip_prefix("result ")?.split(' ').collect();
    let [name, size, time, check] = words[..] else { return None };
    Some((name.into(), size.parse().ok()?, time.parse().ok()?, check.into()))
}

/// Whether all have computed the same.
fn agree(lines: &[(&str, Line)]) -> Result<(), String> {
    for (peer, (name, size, _, check)) in lines {
        let other = lines.iter().find(|(_, line)| (&line.0, line.1) == (name, *size) && line.3 != *check);
        if let Some((other, line)) = other {
            return Err(format!("{name} of {size} is {check} under {peer} and {} under {other}", line.3));
        }
    }
    Ok(())
}

fn print(report: &Report, json: bool) -> Result<(), String> {
    if json {
        let text = serde_json::to_string_pretty(report).map_err(|error| error.to_string())?;
        println!("{text}");
        return Ok(());
    }
    println!("nanoseconds for one, median of {} ({}):", report.rounds, report.versions.join("; "));
    for curve in &report.curves {
        let points: Vec<_> = curve
            .points
            .iter()
            .map(|point| format!("{} {:.1}", size(point.size), point.nanoseconds))
            .collect();
        println!("  {:<12} {:<17} {}", curve.what, curve.peer, points.join(", "));
    }
    if let Some(holds) = report.cache_holds {
        println!(
            "  (sizes of code are in what a cache of {} MiB holds: {holds} functions)",
            report.cache_mib
        );
    }
    Ok(())
}

/// A number of things, or a multiple.
fn size(size: f64) -> String {
    if size.fract() == 0.0 { size.to_string() } else { format!("{size:.2}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_a_console_are_read() {
        assert_eq!(line("result code 16 1.25 77\r"), Some(("code".into(), 16, 1.25, "77".into())));
        for other in ["result code 16 1.25", "done", "result code x 1.25 77", "[ 0.1] result code 16 1 7"] {
            assert_eq!(line(other), None, "{other}");
        }
        let stats = "of the engine's own:\n         227  blocks translated\n       35939  bytes of translated code in the cache\n";
        assert_eq!(bytes_in_cache(stats), Some(35939.0));
        assert_eq!(bytes_in_cache("x"), None);
    }

    #[test]
    fn answers_have_to_agree() {
        let one = |size, check: &str| ("popf", ("code".to_owned(), size, 1.0, check.to_owned()));
        assert_eq!(agree(&[one(1, "7"), one(2, "8"), one(1, "7")]), Ok(()));
        assert!(agree(&[one(1, "7"), one(1, "8")]).is_err());
    }
}
