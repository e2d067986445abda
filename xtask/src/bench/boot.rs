//! Boot of an image: the same kernel, initramfs, command line, memory and disk under popf and under QEMU.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

use super::console::{self, Times};
use super::median;
use crate::{cargo, metadata};

/// The image that boots.
pub const IMAGE: &str = "busybox";
pub const QEMU: &str = "qemu-system-x86_64";

/// What boots, and how far.
struct Subject {
    image: &'static str,
    cmdline: &'static str,
    memory_mib: u32,
    /// What is waited for.
    milestone: &'static str,
    /// What the shell is told, and how it says that the milestone is reached; the prompt is one by itself.
    question: Option<(&'static str, &'static str)>,
}

/// The check of the timer is left out: on a busy host ticks come too late for it.
const BUSYBOX: Subject = Subject {
    image: IMAGE,
    cmdline: "console=ttyS0 quiet panic=-1 no_timer_check",
    memory_mib: 512,
    milestone: "prompt",
    question: None,
};

/// The second start of a target waits for the first.
const DEBIAN: Subject = Subject {
    image: "debian",
    cmdline: "console=ttyS0 quiet panic=-1 no_timer_check root=/dev/vda rw",
    memory_mib: 1024,
    milestone: "multi-user.target",
    question: Some(("systemctl start multi-user.target && echo reached-$((1 + 1))", "reached-2")),
};

/// `cargo xtask bench boot`.
#[derive(Args)]
pub struct BootArgs {
    /// The image that boots.
    #[arg(long, value_enum, default_value_t = Boots::Busybox)]
    image: Boots,
    /// How often each boots.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Give up on a boot after so many seconds.
    #[arg(long, default_value_t = 120, value_name = "SECONDS")]
    timeout: u64,
    /// Print the figures as JSON, on standard output.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Boots {
    /// To its shell.
    Busybox,
    /// From its disk, with systemd, to multi-user.target.
    Debian,
}

/// A row of `popf image list --json`.
#[derive(Clone, Deserialize)]
pub struct Image {
    pub name: String,
    pub kernel: PathBuf,
    pub initrd: PathBuf,
    pub disk: Option<PathBuf>,
}

/// What was measured of one of the two.
#[derive(Serialize)]
struct Figures {
    name: &'static str,
    version: String,
    reached_seconds: Vec<f64>,
    exit_seconds: Vec<f64>,
    reached_median: f64,
    exit_median: f64,
}

/// The whole result.
#[derive(Serialize)]
struct Report {
    benchmark: &'static str,
    rounds: u32,
    memory_mib: u32,
    kernel: String,
    cmdline: &'static str,
    milestone: &'static str,
    /// popf, then QEMU.
    figures: [Figures; 2],
    /// QEMU's median over popf's: above 1, popf is faster.
    reached_ratio: f64,
    exit_ratio: f64,
}

/// Measures and prints.
pub fn run(args: &BootArgs) -> Result<(), String> {
    let popf = build()?;
    let subject = match args.image {
        Boots::Busybox => &BUSYBOX,
        Boots::Debian => &DEBIAN,
    };
    let image = find_image(&popf, subject.image)?;
    let limit = Duration::from_secs(args.timeout);
    let mut times: [Vec<Times>; 2] = Default::default();
    for round in 1..=args.rounds {
        // Who goes first changes, so that neither always finds the other's cold or hot machine.
        let order = if round % 2 == 1 { [0, 1] } else { [1, 0] };
        for peer in order {
            let mut command = match peer {
                0 => popf_command(&popf, &image, subject.cmdline, subject.memory_mib),
                _ => qemu_command(&image, subject.cmdline, subject.memory_mib),
            };
            let measured = subject.boot(&mut command, limit)?;
            eprintln!(
                "round {round}: {:<5} {} {:6.2} s, powered off {:6.2} s",
                ["popf", "qemu"][peer],
                subject.milestone,
                measured.reached.as_secs_f64(),
                measured.exit.as_secs_f64()
            );
            times[peer].push(measured);
        }
    }
    let figures = [
        figures("popf", version(Command::new(&popf))?, &times[0]),
        figures("qemu", version(Command::new(QEMU))?, &times[1]),
    ];
    let report = Report {
        benchmark: "boot",
        rounds: args.rounds,
        memory_mib: subject.memory_mib,
        kernel: image.kernel.display().to_string(),
        cmdline: subject.cmdline,
        milestone: subject.milestone,
        reached_ratio: figures[1].reached_median / figures[0].reached_median,
        exit_ratio: figures[1].exit_median / figures[0].exit_median,
        figures,
    };
    print(&report, args.json)
}

impl Subject {
    fn boot(&self, command: &mut Command, limit: Duration) -> Result<Times, String> {
        let Some((line, answer)) = self.question else {
            return console::boot(command, limit);
        };
        let (times, reached) = console::boot_asking(command, limit, line, answer)?;
        Ok(Times { reached, ..times })
    }
}

fn print(report: &Report, json: bool) -> Result<(), String> {
    if json {
        let text = serde_json::to_string_pretty(report).map_err(|error| error.to_string())?;
        println!("{text}");
        return Ok(());
    }
    println!("boot, median of {}:", report.rounds);
    for figures in &report.figures {
        println!(
            "  {:<5} {} {:6.2} s   powered off {:6.2} s   ({})",
            figures.name, report.milestone, figures.reached_median, figures.exit_median, figures.version
        );
    }
    println!(
        "  popf is {:.2} times as fast to {}, {:.2} to the end",
        report.reached_ratio, report.milestone, report.exit_ratio
    );
    Ok(())
}

fn figures(name: &'static str, version: String, times: &[Times]) -> Figures {
    let reached: Vec<_> = times.iter().map(|times| times.reached.as_secs_f64()).collect();
    let exits: Vec<_> = times.iter().map(|times| times.exit.as_secs_f64()).collect();
    Figures {
        name,
        version,
        reached_median: median(&reached),
        exit_median: median(&exits),
        reached_seconds: reached,
        exit_seconds: exits,
    }
}

/// The release build of popf.
pub fn build() -> Result<PathBuf, String> {
    let built = cargo().args(["build", "--release", "--package", "popf"]).status();
    match built {
        Ok(status) if status.success() => Ok(metadata::read()?.target_directory.join("release/popf")),
        Ok(status) => Err(format!("popf does not build ({status})")),
        Err(error) => Err(format!("cannot start cargo: {error}")),
    }
}

/// An image, made first if it is missing.
pub fn find_image(popf: &Path, name: &str) -> Result<Image, String> {
    // Makes it if it is missing, and is quick if not.
    output(Command::new(popf).args(["image", "build", name]))?;
    let list = output(Command::new(popf).args(["image", "list", "--json"]))?;
    let images: Vec<Image> =
        serde_json::from_str(&list).map_err(|error| format!("cannot read the list of images: {error}"))?;
    images.into_iter().find(|image| image.name == name).ok_or_else(|| format!("there is no image {name}"))
}

/// popf with an image, whose disk is not written to.
pub fn popf_command(popf: &Path, image: &Image, cmdline: &str, memory_mib: u32) -> Command {
    let mut command = Command::new(popf);
    command.arg("run").arg("--kernel").arg(&image.kernel).arg("--initrd").arg(&image.initrd);
    command.args(["--cmdline", cmdline, "--memory", &format!("{memory_mib}M")]);
    command.args(["--engine", "translator", "--no-reboot"]);
    if let Some(disk) = &image.disk {
        command.args(["--disk", &format!("{},format=raw,snapshot", disk.display()), "--net", "user"]);
    }
    command
}

/// QEMU with the same, as lean as it gets: no device that the guest does not need is there to be probed.
pub fn qemu_command(image: &Image, cmdline: &str, memory_mib: u32) -> Command {
    let mut command = Command::new(QEMU);
    command.args(["-accel", "tcg", "-cpu", "max", "-nodefaults", "-display", "none", "-serial", "stdio"]);
    command.args(["-no-reboot", "-m", &memory_mib.to_string(), "-append", cmdline]);
    command.arg("-kernel").arg(&image.kernel).arg("-initrd").arg(&image.initrd);
    if let Some(disk) = &image.disk {
        let drive = format!("if=none,id=root,file={},format=raw,snapshot=on", disk.display());
        command.args(["-drive", &drive, "-device", "virtio-blk-pci,drive=root,disable-legacy=on"]);
        command.args(["-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net,disable-legacy=on"]);
        command.args(["-device", "virtio-rng-pci,disable-legacy=on"]);
    }
    command
}

/// The first line of `--version`.
pub fn version(mut command: Command) -> Result<String, String> {
    let text = output(command.arg("--version"))?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

/// What a program has written, if it has ended well.
pub fn output(command: &mut Command) -> Result<String, String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.stderr(Stdio::inherit()).output();
    let output = output.map_err(|error| format!("cannot start {program}: {error}"))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(format!("{program} failed ({})", output.status))
    }
}
