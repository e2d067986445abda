//! `popf scan`: the crate of that name at the command line, and what engines make of what it finds.

mod source;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Instant;

use ::scan::image::Format;
use ::scan::{Finding, Image, Occurrence, Report, Way, scan};
use serde::Serialize;
use x86::classify::Standing;

use crate::args::ScanArgs;
use crate::classify::{class, traps};
use crate::error::CliError;
use crate::image::{print, print_json};

/// What `--json` prints.
#[derive(Serialize)]
struct Scanned {
    file: String,
    format: &'static str,
    mode: String,
    seconds: f64,
    /// Bytes of code.
    bytes: usize,
    /// Those of them in instructions that control was seen to reach.
    descent_bytes: usize,
    /// Those in instructions that a sweep found.
    sweep_bytes: usize,
    /// INT3 in what was swept.
    padding_bytes: usize,
    /// No instruction.
    other_bytes: usize,
    instructions: usize,
    symbols: usize,
    /// Sensitive instructions by class.
    classes: BTreeMap<&'static str, usize>,
    histogram: Vec<Kind>,
    #[serde(skip_serializing_if = "Option::is_none")]
    list: Option<Vec<Line>>,
}

/// A form of an instruction.
#[derive(Serialize)]
struct Kind {
    instruction: &'static str,
    class: &'static str,
    traps: &'static str,
    descent: usize,
    sweep: usize,
    becomes: Becomes,
}

/// What engines make of it.
#[derive(Clone, Serialize)]
struct Becomes {
    /// A monitor that runs guests in ring 3 as they are.
    trap_and_emulate: &'static str,
    /// popf's translator.
    translator: &'static str,
    vmx: &'static str,
    svm: &'static str,
}

/// An instruction at its place.
#[derive(Serialize)]
struct Line {
    address: String,
    symbol: Option<String>,
    instruction: String,
    class: &'static str,
    found: &'static str,
    reason: &'static str,
    translator: &'static str,
}

/// Scans a file and prints what was found; popf's exit status.
pub fn run(args: &ScanArgs) -> Result<u8, CliError> {
    let started = Instant::now();
    let image = source::image(args)?;
    let mut report = scan(&image);
    report.findings.retain(|finding| args.class.holds(&finding.row));
    let scanned = scanned(args, &image, &report, started);
    if args.json {
        print_json(&scanned)?;
    } else {
        print(format_args!("{}", text(&scanned)))?;
    }
    Ok(0)
}

fn scanned(args: &ScanArgs, image: &Image, report: &Report, started: Instant) -> Scanned {
    let mut classes = BTreeMap::new();
    for finding in &report.findings {
        *classes.entry(class(&finding.row)).or_default() += 1;
    }
    let list = args.list.then(|| report.findings.iter().map(|finding| line(finding, image)).collect());
    Scanned {
        file: match (&args.vm, &args.file) {
            (Some(vm), _) => format!("memory of {vm}"),
            (None, file) => file.as_deref().unwrap_or(Path::new("")).display().to_string(),
        },
        format: format_name(image.format),
        mode: format!("{:?}", image.mode).to_lowercase(),
        seconds: started.elapsed().as_secs_f64(),
        bytes: image.len(),
        descent_bytes: report.coverage.descent,
        sweep_bytes: report.coverage.sweep,
        padding_bytes: report.coverage.padding,
        other_bytes: report.coverage.rest,
        instructions: report.instructions,
        symbols: image.symbols.len(),
        classes,
        histogram: report.histogram().iter().map(|kind| self::kind(kind, image, report)).collect(),
        list,
    }
}

fn format_name(format: Format) -> &'static str {
    match format {
        Format::Elf => "ELF",
        Format::BzImage => "bzImage",
        Format::Pe => "PE",
        Format::Raw => "raw",
        Format::Memory => "memory",
    }
}

fn kind(kind: &Occurrence, image: &Image, report: &Report) -> Kind {
    let example = report.findings.iter().find(|finding| finding.instruction.code() == kind.code);
    let [vmx, svm] = kind.under_hardware_assist(image.mode).map(assisted);
    Kind {
        instruction: kind.code.op_code().instruction_string(),
        class: class(&kind.row),
        traps: traps(&kind.row),
        descent: kind.descent,
        sweep: kind.sweep,
        becomes: Becomes {
            trap_and_emulate: match kind.under_trap_and_emulate(image.mode) {
                Standing::Traps => "trap",
                _ => "unnoticed",
            },
            translator: example.map_or("callout", |finding| translated(finding, image)),
            vmx,
            svm,
        },
    }
}

fn assisted(standing: Standing) -> &'static str {
    match standing {
        Standing::Exits => "exit",
        Standing::Hidden => "not offered",
        _ => "run",
    }
}

/// What the translator makes of an instruction of a kernel, or of a program.
fn translated(finding: &Finding, image: &Image) -> &'static str {
    let ring = match image.format {
        Format::BzImage | Format::Raw | Format::Memory => 0,
        Format::Elf | Format::Pe => 3,
    };
    if board::engine::inlines(&finding.instruction, image.mode, ring) { "inline" } else { "callout" }
}

fn line(finding: &Finding, image: &Image) -> Line {
    let address = finding.instruction.ip();
    let symbol = image.symbols.find(address).map(|(name, offset)| match offset {
        0 => name.to_owned(),
        _ => format!("{name}+{offset:#x}"),
    });
    Line {
        address: format!("{address:#x}"),
        symbol,
        instruction: finding.text(),
        class: class(&finding.row),
        found: match finding.way {
            Way::Descent => "descent",
            Way::Sweep => "sweep",
        },
        reason: finding.row.reason,
        translator: translated(finding, image),
    }
}

fn text(scanned: &Scanned) -> String {
    let Scanned { file, format, mode, seconds, bytes, instructions, symbols, .. } = scanned;
    let percent = |part: usize| 100.0 * part as f64 / *bytes as f64;
    let mut text =
        format!("{file}: {format}, {mode}, {bytes} bytes of code, {symbols} symbols, {seconds:.2} s\n");
    // Writing to a string cannot fail, here and below.
    let _ = writeln!(
        text,
        "{instructions} instructions; of the bytes {:.1} % by descent, {:.1} % by sweep (perhaps data), {:.1} % \
         padding, {:.1} % no code",
        percent(scanned.descent_bytes),
        percent(scanned.sweep_bytes),
        percent(scanned.padding_bytes),
        percent(scanned.other_bytes),
    );
    let found: usize = scanned.classes.values().sum();
    let classes: Vec<_> = scanned.classes.iter().map(|(class, count)| format!("{count} {class}")).collect();
    let _ = writeln!(text, "{found} sensitive instructions: {}\n", classes.join(", "));
    if let Some(list) = &scanned.list {
        for Line { address, symbol, instruction, class, found, translator, .. } in list {
            let mark = if *found == "sweep" { "?" } else { " " };
            // A file says what its symbols are called.
            let symbol = symbol.as_deref().unwrap_or("-").escape_debug();
            let _ =
                writeln!(text, "{address:>18}{mark} {instruction:<36} {class:<10} {translator:<8} {symbol}");
        }
        text.push('\n');
    }
    let _ = writeln!(
        text,
        "{:>8} {:>8}  {:<26} {:<10} {:<10} {:<17} {:<11} {:<12} SVM",
        "descent", "sweep", "instruction", "sensitive", "traps", "trap-and-emulate", "translator", "VMX"
    );
    for Kind { instruction, class, traps, descent, sweep, becomes } in &scanned.histogram {
        let Becomes { trap_and_emulate, translator, vmx, svm } = becomes;
        let _ = writeln!(
            text,
            "{descent:>8} {sweep:>8}  {instruction:<26} {class:<10} {traps:<10} {trap_and_emulate:<17} \
             {translator:<11} {vmx:<12} {svm}"
        );
    }
    text
}
