//! `popf theory run`.

use std::cell::RefCell;
use std::io::{self, Read as _, Write as _};
use std::rc::Rc;

use ::theory::assembler::{Program, assemble};
use ::theory::monitor::{Event, Watch};
use ::theory::{Kind, Machine, Psw, Stop, Word, tower};
use serde::Serialize;

use crate::args::ProgramArgs;
use crate::error::CliError;
use crate::exit::Failure;
use crate::image::print_json;

/// What `--json` prints.
#[derive(Serialize)]
struct Report {
    isa: &'static str,
    depth: u32,
    hybrid: bool,
    /// `halted`, or `limit` if the program was stopped.
    end: &'static str,
    /// Attempts at instructions.
    steps: u64,
    /// The program counter at the end.
    p: Word,
    output: String,
    /// The monitors, from the one on the real machine upwards.
    monitors: Vec<Level>,
}

/// What a monitor did.
#[derive(Clone, Debug, Default, Serialize)]
struct Level {
    /// Traps of the machine below it.
    traps: u64,
    /// Instructions it carried out.
    interpreted: u64,
    /// Traps it passed on to its VM.
    reflected: u64,
}

/// Runs a program to its end; popf's exit status.
pub fn run(args: &ProgramArgs) -> Result<u8, CliError> {
    let program = Rc::new(read(args)?);
    let levels = Rc::new(RefCell::new(vec![Level::default(); args.depth as usize]));
    let watch = watch(levels.clone(), args.depth, args.trace.then(|| program.clone()));
    let kind = if args.hybrid { Kind::Hybrid } else { Kind::Full };
    let mut machine = tower(args.isa, args.memory, args.depth, kind, Some(&watch));
    for (real, &word) in program.memory.iter().enumerate() {
        machine.write(real as Word, word);
    }
    machine.set_psw(Psw::supervisor(program.entry, args.memory));
    if args.interactive {
        let mut input = Vec::new();
        io::stdin()
            .read_to_end(&mut input)
            .map_err(|error| CliError::new(Failure::NoInput, "cannot read standard input").because(error))?;
        machine.console().input.extend(input);
    }
    let (stop, left) = drive(&mut machine, args, &program)?;
    let halted = stop == Stop::Halted;
    let report = Report {
        isa: args.isa.name,
        depth: args.depth,
        hybrid: args.hybrid,
        end: if halted { "halted" } else { "limit" },
        steps: args.limit - left,
        p: machine.psw().p,
        output: String::from_utf8_lossy(&machine.console().output).into_owned(),
        monitors: levels.borrow().clone(),
    };
    if args.json {
        print_json(&report)?;
    } else {
        summarize(&report);
    }
    if halted {
        return Ok(0);
    }
    let hint =
        "--limit gives it more; --trace shows whether it traps for ever, as where E(1) leads to no handler";
    Err(CliError::new(Failure::GoesOn, format!("the program has not halted after {} steps", report.steps))
        .hint(hint))
}

fn read(args: &ProgramArgs) -> Result<Program, CliError> {
    let path = args.program.display();
    let text = std::fs::read_to_string(&args.program)
        .map_err(|error| CliError::new(Failure::NoInput, format!("cannot read {path}")).because(error))?;
    assemble(&text, args.memory).map_err(|errors| {
        let lines: Vec<_> = errors.iter().map(|error| format!("\n  {error}")).collect();
        CliError::new(Failure::Data, format!("{path} cannot be assembled:{}", lines.concat()))
    })
}

/// Runs the machine, in pieces, so that the console's output is seen as it comes; how it ended and the fuel left.
fn drive(machine: &mut impl Machine, args: &ProgramArgs, program: &Program) -> Result<(Stop, u64), CliError> {
    const PIECE: u64 = 100_000;
    let mut left = args.limit;
    let mut shown = 0;
    loop {
        let mut fuel = left.min(PIECE);
        left -= fuel;
        let stop = machine.run(&mut fuel);
        left += fuel;
        if !args.json {
            let output = &machine.console().output;
            let fresh = &output[shown..];
            write(fresh)?;
            shown = output.len();
        }
        match stop {
            Stop::Trap(cause) if args.trace && args.depth == 0 => {
                let psw = machine.psw();
                trace(format_args!("0  trap         {cause}, on at {}", place(program, psw)));
            }
            Stop::Trap(_) => {}
            Stop::Exhausted if left > 0 => {}
            stop => return Ok((stop, left)),
        }
    }
}

/// Writes the console's output; a reader that has gone away is no failure.
fn write(bytes: &[u8]) -> Result<(), CliError> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(CliError::new(Failure::Host, "cannot write to standard output").because(error))
        }
        _ => Ok(()),
    }
}

/// Counts what monitors do, and tells it, if there is a program to tell it of. That runs on the monitor at `depth`;
/// what runs on the others is the next monitor.
fn watch(levels: Rc<RefCell<Vec<Level>>>, depth: u32, traced: Option<Rc<Program>>) -> Watch {
    Rc::new(move |level, event| {
        let counts = &mut levels.borrow_mut()[level as usize - 1];
        match event {
            Event::Trapped(..) => counts.traps += 1,
            Event::Interpreted(..) => counts.interpreted += 1,
            Event::Reflected(..) => counts.reflected += 1,
            Event::Relocated(..) => {}
        }
        let Some(program) = &traced else { return };
        let place = |psw| if level == depth { place(program, psw) } else { format!("⟨{psw}⟩") };
        let text = match event {
            Event::Trapped(cause, psw) => format!("trap         {cause}, real PSW ⟨{psw}⟩"),
            Event::Interpreted(instruction, psw) => {
                let instruction = instruction.to_string();
                format!("interpreted  {instruction:<16} at {}", place(psw))
            }
            Event::Reflected(cause, psw) => format!("reflected    {cause}, on at {}", place(psw)),
            Event::Relocated(asked, given) => {
                format!("allocated    R=({},{}), real R=({},{})", asked.l, asked.b, given.l, given.b)
            }
        };
        trace(format_args!("{level}  {text}"));
    })
}

/// A PSW, and the label that P is near, as far as P is a real address.
fn place(program: &Program, psw: Psw) -> String {
    match program.place(psw.r.l.saturating_add(psw.p)) {
        Some((label, 0)) => format!("{label} ⟨{psw}⟩"),
        Some((label, offset)) => format!("{label}+{offset} ⟨{psw}⟩"),
        None => format!("⟨{psw}⟩"),
    }
}

fn summarize(report: &Report) {
    let steps = report.steps;
    trace(format_args!("{steps} steps on {} of {}", depth(report.depth), report.isa));
    for (below, level) in report.monitors.iter().enumerate() {
        let Level { traps, interpreted, reflected } = level;
        let direct = 100.0 * (1.0 - (*traps).max(*interpreted) as f64 / steps.max(1) as f64);
        let monitor = below + 1;
        trace(format_args!(
            "monitor {monitor}: {traps} traps, {interpreted} instructions interpreted, {reflected} traps passed on; \
             {direct:.1} % of the steps without it"
        ));
    }
}

fn depth(depth: u32) -> String {
    match depth {
        0 => "the real machine".into(),
        1 => "a VM".into(),
        _ => format!("a VM {depth} monitors deep"),
    }
}

/// A line of what is told beside the output; with standard error closed nobody wants it.
fn trace(text: std::fmt::Arguments) {
    let _ = writeln!(io::stderr(), "{text}");
}
