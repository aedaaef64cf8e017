//! How a command ends: exit codes, and the one place where an error chain is printed.

use std::process::ExitCode;

/// How a command went, for scripts. Listed in `chronos --help`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// It could not be done, for a reason of this machine.
    Failed = 1,
    /// The command line, the configuration or a file says something that makes no sense.
    Usage = 2,
    /// The server refused: nothing has changed.
    Refused = 3,
    /// No server answered, or none that leads: nothing has changed.
    Unreachable = 4,
    /// The answer was lost: the change may or may not have been made.
    OutcomeUnknown = 5,
    /// The data folder cannot be used; starting again does not help.
    Data = 6,
}

/// Why a command ended without success.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    pub(crate) error: anyhow::Error,
    pub(crate) hint: Option<String>,
    /// What the server calls it; see the API.
    pub(crate) code: Option<String>,
}

impl Failure {
    pub(crate) fn new(exit: Exit, error: impl Into<anyhow::Error>) -> Self {
        Self { exit, error: error.into(), hint: None, code: None }
    }

    pub(crate) fn usage(message: impl std::fmt::Display) -> Self {
        Self::new(Exit::Usage, anyhow::anyhow!("{message}"))
    }

    pub(crate) fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    pub(crate) fn context(self, context: impl std::fmt::Display + Send + Sync + 'static) -> Self {
        Self { error: self.error.context(context), ..self }
    }

    /// What happened, from the outermost message to the innermost, in one line.
    pub(crate) fn chain(&self) -> String {
        chain(&self.error)
    }

    /// The chain on one line, then what to do about it.
    pub(crate) fn print(&self) {
        // Nobody is left to tell if stderr is gone.
        let _ = std::io::Write::write_all(&mut std::io::stderr(), self.to_text().as_bytes());
    }

    pub(crate) fn to_text(&self) -> String {
        let mut text = format!("error: {}\n", printable(&chain(&self.error)));
        if let Some(hint) = &self.hint {
            text.push_str(&format!("hint: {}\n", printable(hint)));
        }
        text
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// A failure of this machine: disk, terminal, pipe.
impl From<std::io::Error> for Failure {
    fn from(cause: std::io::Error) -> Self {
        Self::new(Exit::Failed, cause)
    }
}

/// Messages from outermost to innermost. A message that the one before it already ends with is left out: some
/// libraries repeat their source.
fn chain(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for link in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = link;
        } else if !text.ends_with(&link) {
            text = format!("{text}: {link}");
        }
    }
    text
}

/// Control characters, which could rewrite a terminal, are shown as escapes; line ends and tabs stay.
pub(crate) fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\t' => shown.push(c),
            c if c.is_control() => shown.extend(c.escape_default()),
            c => shown.push(c),
        }
    }
    shown
}

/// The same where each text is a line of its own: one with a line end in it must not look like two.
pub(crate) fn printable_line(text: &str) -> String {
    printable(text).replace('\n', "\\n").replace('\t', " ")
}
