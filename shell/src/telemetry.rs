//! Log lines on standard error or in a file, chosen by `RUST_LOG` or else by the configuration.

use std::fs::OpenOptions;
use std::io::{self, IsTerminal as _};
use std::path::Path;
use std::sync::{Mutex, OnceLock};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

/// What is logged by default: changes of state and worse; of Raft, which explains every step, only
/// what an operator has to act on.
pub const DEFAULT_LOG: &str = "info,openraft=error";

/// Replaces what is logged.
static CHOOSE: OnceLock<Box<dyn Fn(EnvFilter) + Send + Sync>> = OnceLock::new();

/// A setting that does not say what is to be logged.
#[derive(Debug, thiserror::Error)]
#[error(
    "`log` is {text:?}: {cause}; write a level (error, warn, info, debug, trace), or levels of modules as \"info,osd=debug\""
)]
pub struct LogError {
    /// Text found.
    pub text: String,
    /// What is wrong with it.
    pub cause: ParseError,
}

/// Checks a setting.
///
/// # Errors
///
/// [`LogError`].
pub fn check(log: &str) -> Result<(), LogError> {
    parsed(log).map(drop)
}

fn parsed(log: &str) -> Result<EnvFilter, LogError> {
    EnvFilter::try_new(log).map_err(|cause| LogError {
        text: log.to_owned(),
        cause,
    })
}

/// Starts logging: to `file` (appending) if given, else to standard error. `RUST_LOG` chooses what;
/// without it `log` does (`info`, `warn,osd=debug`, ...). A second call changes nothing.
///
/// # Errors
///
/// If the file can't be opened.
pub fn init(log: &str, file: Option<&Path>) -> io::Result<()> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(log));
    let lines = tracing_subscriber::fmt().with_env_filter(filter);
    let started = match file {
        Some(path) => {
            let file = OpenOptions::new().create(true).append(true).open(path)?;
            let lines = lines
                .with_ansi(false)
                .with_writer(Mutex::new(file))
                .with_filter_reloading();
            let handle = lines.reload_handle();
            let choose = move |filter| drop(handle.reload(filter));
            lines.try_init().map(|()| CHOOSE.set(Box::new(choose)))
        }
        None => {
            let lines = lines
                .with_ansi(io::stderr().is_terminal())
                .with_writer(io::stderr)
                .with_filter_reloading();
            let handle = lines.reload_handle();
            let choose = move |filter| drop(handle.reload(filter));
            lines.try_init().map(|()| CHOOSE.set(Box::new(choose)))
        }
    };
    // Fails only if logging was started before, which is what we want.
    drop(started);
    Ok(())
}

/// Logs something else from now on, unless `RUST_LOG` says what; a setting that can't be used
/// changes nothing.
pub fn choose(log: &str) {
    if std::env::var_os("RUST_LOG").is_some() {
        return;
    }
    if let (Some(choose), Ok(filter)) = (CHOOSE.get(), parsed(log)) {
        choose(filter);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn setting_that_is_no_level_is_named() {
        assert!(check(DEFAULT_LOG).is_ok());
        assert!(check("warn,osd=debug").is_ok());

        let text = check("osd=loud").unwrap_err().to_string();

        assert!(text.contains("\"osd=loud\""), "{text}");
    }
}
