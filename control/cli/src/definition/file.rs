//! Definitions in TOML files.

use std::fs;
use std::path::{Path, PathBuf};

use toml::de::DeTable;

use super::{Definition, Misfit};
use crate::error::CliError;
use crate::exit::Failure;

/// No definition is larger: what is, is another kind of file.
const LIMIT: u64 = 1 << 20;

/// A file and what it says.
#[derive(Debug)]
pub struct DefinitionFile {
    path: PathBuf,
    text: String,
}

impl DefinitionFile {
    /// Whether a word on the command line names one, and not an image.
    pub fn is_named_by(word: &str) -> bool {
        word.ends_with(".toml")
    }

    /// Reads the file; relative paths in it are seen from where it lies.
    pub fn read(path: &Path) -> Result<(Self, Definition), CliError> {
        let fail = || CliError::new(Failure::NoInput, format!("cannot read {}", path.display()));
        let metadata = fs::metadata(path)
            .map_err(|error| fail().because(error).hint("check the path and its permissions"))?;
        if metadata.len() > LIMIT || !metadata.is_file() {
            return Err(fail().because("it is no definition: those are small files"));
        }
        let bytes = fs::read(path).map_err(|error| fail().because(error))?;
        let text = String::from_utf8(bytes).map_err(|_| fail().because("it is not UTF-8 text"))?;
        let directory = path.parent().unwrap_or(Path::new(""));
        let definition = Self::parse(path, &text, directory)?;
        Ok((Self { path: path.to_owned(), text }, definition))
    }

    /// What `text`, which comes from `path`, says.
    pub fn parse(path: &Path, text: &str, directory: &Path) -> Result<Definition, CliError> {
        let mut definition: Definition = toml::from_str(text).map_err(|error| {
            let at = error.span().map_or(1, |span| line(text, span.start));
            let excerpt = text.lines().nth(at - 1).unwrap_or_default().trim();
            let mut message = format!("{}:{at}: {}", path.display(), error.message());
            if !excerpt.is_empty() {
                message = format!("{message}, in: {excerpt}");
            }
            CliError::new(Failure::Usage, message)
                .hint("a definition's keys are the long flags of `popf run --help`")
        })?;
        definition.seen_from(directory);
        Ok(definition)
    }

    /// Where in the file a field stands, as `vm.toml:3`; just the file if the field is none of its.
    pub fn place(&self, misfit: &Misfit) -> String {
        let table = DeTable::parse(&self.text).ok();
        let span = table.and_then(|table| {
            let keys = table.get_ref().iter();
            keys.map(|(key, _)| key).find(|key| key.get_ref() == misfit.field).map(|key| key.span())
        });
        match span {
            Some(span) => format!("{}:{}", self.path.display(), line(&self.text, span.start)),
            None => self.path.display().to_string(),
        }
    }
}

/// The number of the line that a byte lies in.
fn line(text: &str, offset: usize) -> usize {
    1 + text.as_bytes().iter().take(offset).filter(|byte| **byte == b'\n').count()
}
