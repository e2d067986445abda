//! Sums of numbers and names.

use std::collections::HashMap;

use crate::Word;

/// Terms, each with whether it is subtracted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Expression(Vec<(bool, Term)>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Term {
    Number(Word),
    Name(String),
}

impl Expression {
    /// From text.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut terms = Vec::new();
        let mut rest = text.trim();
        let mut negative = false;
        if let Some(behind) = rest.strip_prefix('-') {
            (negative, rest) = (true, behind.trim_start());
        }
        loop {
            let (term, behind) = term(rest).ok_or_else(|| format!("{text:?} is no number or name"))?;
            terms.push((negative, term));
            rest = behind.trim_start();
            negative = match rest.chars().next() {
                None => return Ok(Self(terms)),
                Some('+') => false,
                Some('-') => true,
                Some(_) => return Err(format!("{rest:?} does not belong behind a number or name")),
            };
            rest = rest[1..].trim_start();
        }
    }

    /// Its value, or the first name that is unknown.
    pub(super) fn value(&self, names: &HashMap<String, Word>) -> Result<Word, &str> {
        self.0.iter().try_fold(0_u64, |sum, (negative, term)| {
            let value = match term {
                Term::Number(value) => *value,
                Term::Name(name) => *names.get(name).ok_or(name.as_str())?,
            };
            Ok(if *negative { sum.wrapping_sub(value) } else { sum.wrapping_add(value) })
        })
    }
}

/// The term at the beginning, and what is behind it.
fn term(text: &str) -> Option<(Term, &str)> {
    if let Some(quoted) = text.strip_prefix('\'') {
        let (character, behind) = character(quoted)?;
        return Some((Term::Number(character.into()), behind.strip_prefix('\'')?));
    }
    let end = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len());
    let (word, behind) = text.split_at(end);
    let number = match word.strip_prefix("0x") {
        Some(digits) => Word::from_str_radix(digits, 16).ok(),
        None => word.parse().ok(),
    };
    match number {
        Some(number) => Some((Term::Number(number), behind)),
        None if is_name(word) => Some((Term::Name(word.to_owned()), behind)),
        None => None,
    }
}

/// Whether this can be a name.
pub(super) fn is_name(word: &str) -> bool {
    word.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && word.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// The byte that a character of a quoted text stands for, and what is behind it.
pub(super) fn character(text: &str) -> Option<(u8, &str)> {
    let mut characters = text.chars();
    let byte = match characters.next()? {
        '\\' => match characters.next()? {
            'n' => b'\n',
            't' => b'\t',
            '0' => 0,
            escaped @ ('\\' | '\'' | '"') => escaped as u8,
            _ => return None,
        },
        plain => u8::try_from(plain).ok().filter(u8::is_ascii)?,
    };
    Some((byte, characters.as_str()))
}
