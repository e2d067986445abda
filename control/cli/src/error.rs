//! popf's own failures as the user sees them: what happened, why, what to do next, and the exit status.

use std::error::Error;
use std::fmt::Write as _;

use crate::exit::Failure;

/// A failure that ends popf.
#[derive(Debug)]
pub struct CliError {
    failure: Failure,
    message: String,
    source: Option<Box<dyn Error + Send + Sync>>,
    hint: Option<String>,
    command_mode: bool,
}

impl CliError {
    /// With what happened.
    pub fn new(failure: Failure, message: impl Into<String>) -> Self {
        Self { failure, message: message.into(), source: None, hint: None, command_mode: false }
    }

    /// Because of this.
    pub fn because(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// What the user can do.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// In a run whose exit status is a command's, if `command_mode`.
    pub fn in_command_mode(mut self, command_mode: bool) -> Self {
        self.command_mode = command_mode;
        self
    }

    /// The exit status.
    pub fn status(&self) -> u8 {
        self.failure.status(self.command_mode)
    }

    /// What happened and why: each cause follows what it caused, unless that has said it already.
    pub fn message(&self) -> String {
        let mut text = self.message.clone();
        let mut source = self.source.as_deref().map(|source| source as &dyn Error);
        while let Some(error) = source {
            let cause = error.to_string();
            if !text.ends_with(&cause) {
                // Writing to a string cannot fail.
                let _ = write!(text, ": {cause}");
            }
            source = error.source();
        }
        text
    }

    /// The same with what to do next, for standard error.
    pub fn report(&self) -> String {
        let hint = self.hint.as_ref().map_or_else(String::new, |hint| format!("\npopf: {hint}"));
        format!("popf: {}{hint}", self.message())
    }
}

impl From<images::Error> for CliError {
    fn from(error: images::Error) -> Self {
        use images::Error as E;
        let failure = match error {
            E::UnknownImage { .. } => Failure::NoInput,
            E::Command(_) => Failure::Usage,
            E::Io { .. } | E::NoCacheDirectory => Failure::Host,
            _ => Failure::Unavailable,
        };
        let message = error.to_string();
        let source = error.source().map(|source| chain(source).into());
        Self { failure, message, source, hint: None, command_mode: false }
    }
}

impl From<vms::Error> for CliError {
    fn from(error: vms::Error) -> Self {
        use vms::Error as E;
        let (failure, hint) = match &error {
            E::Taken { name } => (Failure::Busy, Some(format!("`popf stop {name}` ends it"))),
            E::Unknown { .. } => (Failure::NoInput, Some("`popf ps -a` lists those there are".to_owned())),
            E::Stopped { name } => (Failure::NoInput, Some(format!("`popf run --name {name}` starts it"))),
            E::NoDataDirectory => (Failure::Host, Some("set HOME or XDG_DATA_HOME".to_owned())),
            E::NotOurs { .. } => (
                Failure::Host,
                Some("set XDG_RUNTIME_DIR to a directory of your own, or remove it".to_owned()),
            ),
            _ => (Failure::Host, None),
        };
        let source = error.source().map(|source| chain(source).into());
        Self { failure, message: error.to_string(), source, hint, command_mode: false }
    }
}

/// The text of an error and its causes.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let _ = write!(text, ": {error}");
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] io::Error);

    #[test]
    fn causes_are_chained_and_not_repeated() {
        let source = Outer(io::Error::other("inner"));
        let error = CliError::new(Failure::Data, "cannot").because(source).hint("try");
        assert_eq!(error.report(), "popf: cannot: outer: inner\npopf: try");
        let error = CliError::new(Failure::Data, "cannot inner").because(io::Error::other("inner"));
        assert_eq!(error.report(), "popf: cannot inner");
        assert_eq!((error.status(), error.in_command_mode(true).status()), (65, 125));
    }

    #[test]
    fn image_errors_have_their_status() {
        let unknown = images::Error::UnknownImage { name: "x".into(), known: vec!["busybox"] };
        let error = CliError::from(unknown);
        assert_eq!(error.status(), 66);
        assert!(error.report().contains("busybox"), "{}", error.report());
    }
}
