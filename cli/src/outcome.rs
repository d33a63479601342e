//! How a command ends: what it prints and its exit status.

use std::io::Write as _;
use std::process::ExitCode;

use shell::admin::AdminError;
use shell::config::ConfigError;
use shell::local::LocalError;

use crate::arguments::Output;

const FAILED: u8 = 1;
const WRONG_USAGE: u8 = 2;
const PARTLY_DONE: u8 = 3;

/// What a command that did something has to say.
#[derive(Debug, Default)]
pub(crate) struct Done {
    /// For people.
    pub(crate) text: String,
    /// For programs.
    pub(crate) json: String,
    /// What could not be done or learnt.
    pub(crate) missing: Vec<String>,
}

/// A command that did nothing.
#[derive(Debug)]
pub(crate) struct Failure {
    message: String,
    code: u8,
}

impl Failure {
    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            code: FAILED,
        }
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            code: WRONG_USAGE,
        }
    }

    /// What went wrong.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }
}

impl From<AdminError> for Failure {
    fn from(error: AdminError) -> Self {
        Self::failed(error.to_string())
    }
}

impl From<LocalError> for Failure {
    fn from(error: LocalError) -> Self {
        Self::failed(error.to_string())
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::failed(error.to_string())
    }
}

/// Prints the result and gives the exit status. A reader that went away is nobody's failure.
pub(crate) fn finish(result: Result<Done, Failure>, output: Output) -> ExitCode {
    let mut out = std::io::stdout();
    let mut log = std::io::stderr();
    match result {
        Ok(done) => {
            match output {
                Output::Table => writeln!(out, "{}", done.text).ok(),
                Output::Json => writeln!(out, "{}", done.json).ok(),
            };
            for missing in &done.missing {
                writeln!(log, "warning: {missing}").ok();
            }
            if done.missing.is_empty() {
                ExitCode::SUCCESS
            } else {
                ExitCode::from(PARTLY_DONE)
            }
        }
        Err(failure) => {
            writeln!(log, "error: {}", failure.message).ok();
            ExitCode::from(failure.code)
        }
    }
}
