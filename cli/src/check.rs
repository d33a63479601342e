//! `config check`: would a server start with this file?

use std::path::Path;

use serde_json::json;

use crate::outcome::{Done, Failure};

/// Checks the file as the server would that it is for.
pub(crate) fn run(file: &Path) -> Result<Done, Failure> {
    let table: toml::Table = shell::config::load(file)?;
    let role = if table.contains_key("members") {
        let config: mrc::Config = shell::config::load(file)?;
        let config = config.validated().map_err(|error| refused(file, &error))?;
        shell::config::load_secret(&config.secret_file)?;
        "mrc"
    } else if table.contains_key("mrc") {
        let config: osd::Config = shell::config::load(file)?;
        let config = config.validated().map_err(|error| refused(file, &error))?;
        shell::config::load_secret(&config.secret_file)?;
        "osd"
    } else {
        return Err(Failure::failed(format!(
            "{} is no server's configuration: it has neither `members` (of a metadata server) nor \
             `mrc` (of an object server)",
            file.display()
        )));
    };
    Ok(Done {
        text: format!("{} is a good configuration of an {role}", file.display()),
        json: json!({ "file": file.display().to_string(), "role": role, "good": true }).to_string(),
        missing: Vec::new(),
    })
}

fn refused(file: &Path, error: &dyn std::error::Error) -> Failure {
    Failure::failed(format!("{}: {error}", file.display()))
}
