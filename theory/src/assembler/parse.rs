//! One line of a program's text.

use super::expression::{self, Expression};
use crate::Mode;
use crate::isa::{OPS, Operand, Row};

/// What is on a line.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) label: Option<String>,
    pub(super) statement: Option<Statement>,
}

/// What a line asks for.
#[derive(Debug)]
pub(super) enum Statement {
    Org(Expression),
    Name(String, Expression),
    Space(Expression),
    Words(Vec<Expression>),
    Bytes(Vec<u8>),
    /// P, l, b.
    Psw(Mode, [Expression; 3]),
    Instruction(&'static Row, Vec<Given>),
}

/// An operand.
#[derive(Debug)]
pub(super) struct Given {
    pub(super) value: Expression,
    /// It is the address of a word with this value.
    pub(super) literal: bool,
}

/// Parses a line; what is wrong with it, if that cannot be done.
pub(super) fn line(text: &str) -> Result<Line, String> {
    let text = without_comment(text).trim();
    let (label, rest) = match text.split_once(':') {
        Some((label, rest)) if expression::is_name(label) => (Some(label.to_owned()), rest.trim()),
        Some((label, _)) if !label.contains(['\'', '"']) => {
            return Err(format!("{label:?} cannot be a name"));
        }
        _ => (None, text),
    };
    let statement = if rest.is_empty() { None } else { Some(statement(rest)?) };
    Ok(Line { label, statement })
}

/// The line up to a semicolon that is not quoted.
fn without_comment(text: &str) -> &str {
    let mut quote = None;
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        match (quote, c) {
            _ if escaped => escaped = false,
            (Some(_), '\\') => escaped = true,
            (Some(open), c) if c == open => quote = None,
            (None, '\'' | '"') => quote = Some(c),
            (None, ';') => return &text[..at],
            _ => {}
        }
    }
    text
}

fn statement(text: &str) -> Result<Statement, String> {
    let (word, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    let rest = rest.trim();
    match word {
        ".org" => Ok(Statement::Org(Expression::parse(rest)?)),
        ".space" => Ok(Statement::Space(Expression::parse(rest)?)),
        ".equ" => name(rest),
        ".word" => Ok(Statement::Words(operands(rest).map(Expression::parse).collect::<Result<_, _>>()?)),
        ".string" => string(rest).map(Statement::Bytes),
        ".psw" => psw(rest),
        _ if word.starts_with('.') => Err(format!(
            "there is no directive {word:?}: there are .equ, .org, .psw, .space, .string and .word"
        )),
        _ => instruction(word, rest),
    }
}

fn name(rest: &str) -> Result<Statement, String> {
    let [name, value] = operands(rest).collect::<Vec<_>>()[..] else {
        return Err(".equ takes a name and a number: .equ limit, 5".into());
    };
    if !expression::is_name(name) {
        return Err(format!("{name:?} cannot be a name"));
    }
    Ok(Statement::Name(name.to_owned(), Expression::parse(value)?))
}

fn psw(rest: &str) -> Result<Statement, String> {
    let [mode, p, l, b] = operands(rest).collect::<Vec<_>>()[..] else {
        return Err(".psw takes a mode and three numbers: .psw supervisor, handler, 0, size".into());
    };
    let mode = match mode {
        "supervisor" => Mode::Supervisor,
        "user" => Mode::User,
        _ => return Err(format!("{mode:?} is no mode: supervisor and user are")),
    };
    Ok(Statement::Psw(mode, [Expression::parse(p)?, Expression::parse(l)?, Expression::parse(b)?]))
}

fn string(text: &str) -> Result<Vec<u8>, String> {
    let quoted = text.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
    let mut rest = quoted.ok_or(".string takes a text in double quotes")?;
    let mut bytes = Vec::new();
    while !rest.is_empty() {
        let (byte, behind) = expression::character(rest)
            .ok_or_else(|| format!("{rest:?} begins with no ASCII character or escape"))?;
        bytes.push(byte);
        rest = behind;
    }
    Ok(bytes)
}

fn instruction(word: &str, rest: &str) -> Result<Statement, String> {
    let Some(row) = OPS.iter().find(|row| row.mnemonic.eq_ignore_ascii_case(word)) else {
        let near = OPS.iter().map(|row| (distance(&word.to_uppercase(), row.mnemonic), row.mnemonic)).min();
        let hint = match near {
            Some((distance, near)) if distance <= 1 => format!("; is {near} meant?"),
            _ => String::new(),
        };
        return Err(format!("there is no instruction {word:?}{hint}"));
    };
    let given: Vec<_> = operands(rest).map(operand).collect::<Result<_, _>>()?;
    if given.len() != row.operands.len() {
        let many = ["no operand", "one operand", "two operands"][row.operands.len()];
        return Err(format!("{} takes {many}, and {} are given", row.mnemonic, given.len()));
    }
    let literals = given.iter().zip(row.operands);
    if literals.clone().any(|(given, kind)| given.literal && *kind != Operand::Address) {
        return Err(format!("a literal is a word in memory, which is not what {} takes there", row.mnemonic));
    }
    Ok(Statement::Instruction(row, given))
}

fn operand(text: &str) -> Result<Given, String> {
    let (literal, text) = text.strip_prefix('=').map_or((false, text), |text| (true, text));
    Ok(Given { value: Expression::parse(text)?, literal })
}

/// What commas part, where they are not quoted.
fn operands(text: &str) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    let parts = text.split(move |c| {
        quoted ^= c == '\'';
        c == ',' && !quoted
    });
    parts.map(str::trim).filter(move |_| !text.is_empty())
}

/// How many letters have to be changed, added or left out to make one word of the other.
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (n, a) in from.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], n + 1);
        for (m, &b) in to.iter().enumerate() {
            let change = diagonal + usize::from(a != b);
            diagonal = row[m + 1];
            row[m + 1] = change.min(diagonal + 1).min(row[m] + 1);
        }
    }
    row[to.len()]
}
