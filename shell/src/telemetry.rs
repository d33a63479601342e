//! Log lines on standard error or in a file, chosen by `RUST_LOG`.

use std::fs::OpenOptions;
use std::io::{self, IsTerminal as _};
use std::path::Path;
use std::sync::Mutex;

use tracing_subscriber::EnvFilter;

/// Starts logging: to `file` (appending) if given, else to standard error. `RUST_LOG` chooses what;
/// without it `default` does (`info`, `warn,osd=debug`, ...). A second call changes nothing.
///
/// # Errors
///
/// If the file can't be opened.
pub fn init(default: &str, file: Option<&Path>) -> io::Result<()> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let lines = tracing_subscriber::fmt().with_env_filter(filter);
    let started = match file {
        Some(path) => {
            let file = OpenOptions::new().create(true).append(true).open(path)?;
            lines
                .with_ansi(false)
                .with_writer(Mutex::new(file))
                .try_init()
        }
        None => lines
            .with_ansi(io::stderr().is_terminal())
            .with_writer(io::stderr)
            .try_init(),
    };
    // Fails only if logging was started before, which is what we want.
    let _ = started;
    Ok(())
}
