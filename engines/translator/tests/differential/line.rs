//! A case as one line of text: `width bytes | before | after`, the form of `tests/equivalence/instructions.txt`,
//! which says what the words mean.

use std::fmt::Write;

use crate::case::{
    CODE, Case, DATA, DATA_BYTES, FPU_BYTES, MOST_CODE, Outcome, PAGE, SEGMENTS, Width, initial_data, word,
};
use crate::compare::GPR;
use crate::flags::rflags;
use crate::run::SEED;
use crate::surround::{PADS, UD2};
use crate::{compare, fpu};

/// Flags that programs compute, and the direction flag.
const FLAGS: u64 = 0xcd5;

/// A line's case, and what it says of the outcome.
pub struct Line {
    pub case: Case,
    pub after: String,
}

/// The plainest surroundings of a width.
fn plain(width: Width) -> Case {
    let segments = if width == Width::Bits16 { [3, 2, 3, 3, 3, 3] } else { [1, 0, 1, 1, 1, 1] };
    let base = |segment: usize| match width {
        Width::Bits64 => 0,
        _ => u64::from(SEGMENTS[usize::from(segments[segment])].base),
    };
    let mut gpr = [0; 16];
    gpr[4] = DATA + 2 * PAGE - base(2);
    Case {
        width,
        ring0: false,
        code: [0; MOST_CODE],
        code_len: 0,
        start: CODE - base(1),
        gpr,
        rflags: 0,
        fs_base: DATA,
        gs_base: DATA,
        segments,
        fpu_seed: 0,
        patches: [(0, word(&initial_data(SEED), 0)); 4],
    }
}

/// A change that makes a case plainer.
type Simplification = Box<dyn Fn(&mut Case)>;

/// All of them, the plainest of a kind last, each to be kept if the case still shows what it shows.
pub fn simplifications() -> Vec<Simplification> {
    let mut list: Vec<Simplification> = vec![
        Box::new(|case| case.start -= case.linear_start() - CODE),
        Box::new(|case| case.ring0 = false),
        Box::new(|case| case.rflags = 0),
        Box::new(|case| (case.fs_base, case.gs_base) = (DATA, DATA)),
        Box::new(|case| case.fpu_seed = 0),
    ];
    for n in 0..4 {
        list.push(Box::new(move |case| case.patches[n] = plain(case.width).patches[0]));
    }
    for n in 0..16 {
        list.push(Box::new(move |case| case.gpr[n] &= 0xffff_ffff));
        list.push(Box::new(move |case| case.gpr[n] &= 0xff));
        list.push(Box::new(move |case| case.gpr[n] = plain(case.width).gpr[n]));
    }
    for n in [0, 2, 3, 4, 5] {
        list.push(Box::new(move |case| case.segments[n] = plain(case.width).segments[n]));
    }
    list
}

/// A case as the line's first two columns.
pub fn before(case: &Case) -> String {
    let plain = plain(case.width);
    let mut text = format!("{} ", case.width as u32);
    let code = case.code_len as usize - 2 * PADS as usize;
    case.code[..code].iter().for_each(|byte| write!(text, "{byte:02x}").expect("memory"));
    text.push_str(" |");
    let mut word = |name: &str, value: u64, usual: u64| {
        if value != usual {
            write!(text, " {name}={value:#x}").expect("memory");
        }
    };
    for (n, name) in GPR.iter().enumerate() {
        word(name, case.gpr[n], plain.gpr[n]);
    }
    word("flags", case.rflags & FLAGS, 0);
    word("at", case.start, plain.start);
    word("fs", case.fs_base, plain.fs_base);
    word("gs", case.gs_base, plain.gs_base);
    word("fpu", case.fpu_seed, 0);
    word("ring0", u64::from(case.ring0), 0);
    for (offset, value) in case.patches {
        if (offset, value) != plain.patches[0] {
            write!(text, " +{offset:#x}={value:#x}").expect("memory");
        }
    }
    if case.width != Width::Bits64 && case.segments != plain.segments {
        let list: Vec<_> = case.segments.iter().map(u8::to_string).collect();
        write!(text, " segments={}", list.join(",")).expect("memory");
    }
    text
}

/// What an outcome has changed, as the line's third column.
pub fn after(case: &Case, outcome: &Outcome) -> String {
    let mut words = Vec::new();
    let ends = u64::from(case.code_len) - 2 * PADS;
    let rip = outcome.rip.wrapping_sub(case.start);
    let at_end = outcome.vector == 6 && rip >= ends;
    if rip != ends {
        words.push(format!("rip=+{rip:#x}"));
    }
    if !at_end {
        words.push(format!("vector={}", outcome.vector));
        if outcome.vector == 14 {
            words.push(format!("error={:#x} page={:#x}", outcome.error_code & 0x12, outcome.address >> 12));
        }
    }
    let registers = if case.width == Width::Bits64 { 16 } else { 8 };
    let mask = if registers == 16 { u64::MAX } else { 0xffff_ffff };
    for (n, name) in GPR.iter().enumerate().take(registers) {
        if (outcome.gpr[n] ^ case.gpr[n]) & mask != 0 {
            words.push(format!("{name}={:#x}", outcome.gpr[n] & mask));
        }
    }
    // What the manuals call undefined is not the same on every processor.
    let undefined = compare::decode(case).iter().fold(0, |sum, i| sum | i.rflags_undefined());
    let defined = FLAGS & !rflags(undefined);
    if (outcome.rflags ^ case.rflags) & defined != 0 {
        words.push(format!("flags={:#x}", outcome.rflags & defined));
    }
    let mut area = [0; FPU_BYTES];
    fpu::fill(case.fpu_seed, &mut area);
    fpu::normalise(&mut area);
    for at in (0..area.len()).step_by(8) {
        let hidden = registers == 8 && fpu::is_upper(at);
        if word(&area, at) != word(&outcome.fpu, at) && !hidden {
            words.push(format!("fpu+{at:#x}={:#x}", word(&outcome.fpu, at)));
        }
    }
    let mut data = initial_data(SEED);
    for (at, value) in case.patches {
        data[at as usize..at as usize + 8].copy_from_slice(&value.to_le_bytes());
    }
    for (offset, value) in outcome.changes() {
        if word(&data, *offset as usize) != *value {
            words.push(format!("+{offset:#x}={value:#x}"));
        }
    }
    words.join(" ")
}

/// Reads a line that is neither empty nor a comment.
pub fn parse(text: &str) -> Result<Line, String> {
    let mut columns = text.split('|').map(str::trim);
    let (Some(code), Some(before), Some(after)) = (columns.next(), columns.next(), columns.next()) else {
        return Err("a line has three columns".into());
    };
    let (width, bytes) = code.split_once(' ').ok_or("width and bytes in the first column")?;
    let width = match width {
        "16" => Width::Bits16,
        "32" => Width::Bits32,
        "64" => Width::Bits64,
        _ => return Err(format!("a width is 16, 32 or 64, not {width}")),
    };
    let mut case = plain(width);
    let mut len = 0;
    let mut push = |byte: u8| {
        *case.code.get_mut(len).ok_or("more code than a case has room for")? = byte;
        len += 1;
        Ok::<(), String>(())
    };
    let digits = bytes.as_bytes();
    for pair in digits.chunks(2) {
        let pair = std::str::from_utf8(pair).map_err(|error| error.to_string())?;
        push(u8::from_str_radix(pair, 16).map_err(|error| format!("{pair}: {error}"))?)?;
    }
    (0..PADS).flat_map(|_| UD2).try_for_each(push)?;
    case.code_len = len as u32;
    let mut patches = 0;
    for word in before.split_whitespace() {
        let (name, value) = word.split_once('=').ok_or_else(|| format!("{word}: NAME=VALUE"))?;
        if name == "segments" {
            for (slot, index) in case.segments.iter_mut().zip(value.split(',')) {
                let index = index.parse().ok().filter(|index| usize::from(*index) < SEGMENTS.len());
                *slot = index.ok_or_else(|| format!("{word}: no such segment"))?;
            }
            continue;
        }
        let value = number(value)?;
        if let Some(n) = GPR.iter().position(|register| *register == name) {
            case.gpr[n] = value;
            continue;
        }
        match name {
            "flags" => case.rflags = value & FLAGS,
            "at" => case.start = value,
            "fs" => case.fs_base = value,
            "gs" => case.gs_base = value,
            "fpu" => case.fpu_seed = value,
            "ring0" => case.ring0 = value != 0,
            _ => {
                let offset = number(name.strip_prefix('+').ok_or_else(|| format!("{word}: what is that?"))?)?;
                // From the last, so that what is not given does not undo what is.
                let slot = case.patches.iter_mut().rev().nth(patches);
                let slot = slot.filter(|_| offset as usize <= DATA_BYTES - 8);
                *slot.ok_or_else(|| format!("{word}: no room"))? = (offset as u32, value);
                patches += 1;
            }
        }
    }
    let room = CODE..CODE + 2 * PAGE - MOST_CODE as u64;
    if !room.contains(&case.linear_start()) {
        return Err("the code begins outside of the code pages".into());
    }
    Ok(Line { case, after: after.to_owned() })
}

fn number(text: &str) -> Result<u64, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    parsed.map_err(|error| format!("{text}: {error}"))
}
