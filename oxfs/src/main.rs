//! The one binary of OxFS: servers, mounts, and whole clusters on one machine.

mod arguments;
mod config;
#[cfg(test)]
mod documented;
mod down;
mod launch;
mod layout;
mod mount;
mod mountpoint;
mod ports;
mod quorum;
mod readiness;
mod remount;
mod serve;
mod start;
mod try_this;
mod up;
mod watch;

use std::process::ExitCode;

use clap::Parser as _;

use arguments::{Arguments, Command};

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match arguments.command {
        Command::Up(arguments) => up::run(&arguments),
        Command::Down(arguments) => down::run(&arguments.dir),
        Command::Start(arguments) => start::run(&arguments),
        Command::Mrc(arguments) => serve::mrc(&arguments.config),
        Command::Osd(arguments) => serve::osd(&arguments.config),
        Command::Mount(arguments) => mount::run(&arguments),
        Command::StoreSums { dir } => serve::store_sums(&dir),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", in_one_line(&error));
            ExitCode::FAILURE
        }
    }
}

/// An error with all its causes in one line, so that it can be read in a log and by a parent
/// process. A cause that the error before it quotes is not said again.
fn in_one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain() {
        let words = cause.to_string();
        if line.is_empty() {
            line = words;
        } else if !line.ends_with(&words) {
            line = format!("{line}: {words}");
        }
    }
    line.replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_in_one_line_and_none_is_said_twice() {
        let quoting = mrc::ConfigError::from("12".parse::<types::ClusterId>().unwrap_err());
        let quoted = anyhow::Error::new(quoting).context("a.toml");

        let line = in_one_line(&quoted);

        assert_eq!(line.matches("32 hexadecimal").count(), 1, "{line}");
        assert!(line.starts_with("a.toml: `cluster`: \"12\""), "{line}");

        let apart = anyhow::anyhow!("inner\nline").context("outer");
        assert_eq!(in_one_line(&apart), "outer: inner line");
    }
}
