//! The one binary of OxFS: servers, mounts, and whole clusters on one machine.

mod arguments;
mod config;
mod down;
mod launch;
mod layout;
mod mount;
mod mountpoint;
mod ports;
mod readiness;
mod serve;
mod start;
mod up;

use std::process::ExitCode;

use clap::Parser as _;

use arguments::{Arguments, Command};

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match arguments.command {
        Command::Up(arguments) => up::run(&arguments),
        Command::Down(arguments) => down::run(&arguments.dir),
        Command::Start(arguments) => start::run(&arguments.dir, &arguments.server),
        Command::Mrc(arguments) => serve::mrc(&arguments.config),
        Command::Osd(arguments) => serve::osd(&arguments.config),
        Command::Mount(arguments) => mount::run(&arguments),
        Command::StoreSums { dir } => serve::store_sums(&dir),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // One line with all causes, so that it can be read in a log and by a parent process.
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
