//! Adding, removing and replacing metadata servers.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use proto::mrc::request::Op;
use proto::mrc::response::Reply;
use proto::mrc::{MrcAddress, MrcChange};
use serde_json::json;
use shell::admin::Admin;
use shell::local::LocalCluster;

use crate::find::Found;
use crate::lists::odd;
use crate::outcome::{Done, Failure};

/// Between two steps. 200 ms: each takes a moment, and the servers see to the rest.
const STEP_PAUSE: Duration = Duration::from_millis(200);

/// An id and an address, as `4=10.0.0.4:7101`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Server {
    id: u64,
    address: String,
}

impl std::str::FromStr for Server {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no ID=HOST:PORT, such as 4=10.0.0.4:7101");
        let (id, address) = text.split_once('=').ok_or_else(wrong)?;
        let id = id.parse().ok().filter(|id| *id > 0).ok_or_else(wrong)?;
        if !shell::config::is_host_and_port(address) {
            return Err(wrong());
        }
        let address = address.to_owned();
        Ok(Self { id, address })
    }
}

/// Makes these voters and those none, and waits until it is so, for `patience` at most.
pub(crate) async fn change(
    admin: &Admin,
    found: &Found,
    (add, remove): (&[Server], &[u64]),
    patience: Duration,
) -> Result<Done, Failure> {
    let change = MrcChange {
        add: add
            .iter()
            .map(|server| MrcAddress {
                id: server.id,
                address: server.address.clone(),
            })
            .collect(),
        remove: remove.to_vec(),
    };
    let started = Instant::now();
    let mut told = Progress::default();
    loop {
        let reply = admin.ask_leader(Op::MrcChange(change.clone())).await?;
        let Reply::MrcChanged(changed) = reply else {
            return Err(odd());
        };
        if changed.done {
            break;
        }
        told.waits_for(&changed.waits_for);
        if started.elapsed() >= patience {
            told.end();
            return Ok(Done {
                missing: vec![format!(
                    "it still waits for {} after {} s; what was begun stays, and the same command goes on \
                     with it",
                    changed.waits_for,
                    patience.as_secs()
                )],
                ..done("not done yet", &change)
            });
        }
        tokio::time::sleep(STEP_PAUSE).await;
    }
    told.end();
    let gone = remove.iter().copied();
    let gone: Vec<u64> = gone
        .filter(|id| add.iter().all(|server| server.id != *id))
        .collect();
    if let Some(local) = found.local.as_ref().filter(|_| !gone.is_empty()) {
        // Or `oxfs up` would start them again.
        LocalCluster::open(local.dir())?.remove_mrcs(&gone)?;
    }
    Ok(done(&text(add, &gone), &change))
}

fn text(add: &[Server], gone: &[u64]) -> String {
    let numbers = |ids: Vec<u64>| {
        let ids: Vec<String> = ids.iter().map(u64::to_string).collect();
        ids.join(", ")
    };
    let mut lines = Vec::new();
    if !add.is_empty() {
        let ids = add.iter().map(|server| server.id).collect();
        lines.push(format!("voting metadata servers: {} added", numbers(ids)));
    }
    if !gone.is_empty() {
        lines.push(format!(
            "{} removed; the process ends by itself, and its directory and configuration can be deleted",
            numbers(gone.to_vec())
        ));
    }
    lines.push(
        "list the present metadata servers in the configurations of the others and in mount options"
            .to_owned(),
    );
    lines.join("\n")
}

fn done(text: &str, change: &MrcChange) -> Done {
    let added: Vec<u64> = change.add.iter().map(|server| server.id).collect();
    Done {
        text: text.to_owned(),
        json: json!({ "add": added, "remove": change.remove }).to_string(),
        missing: Vec::new(),
    }
}

/// What is waited for, on one line of a terminal or in lines when it changes.
#[derive(Debug, Default)]
struct Progress {
    last: String,
}

impl Progress {
    fn waits_for(&mut self, what: &str) {
        if self.last == what {
            return;
        }
        what.clone_into(&mut self.last);
        let mut out = io::stderr();
        let _gone = match out.is_terminal() {
            true => write!(out, "\r\x1b[Kwaiting for {what} "),
            false => writeln!(out, "waiting for {what}"),
        };
    }

    fn end(&self) {
        if !self.last.is_empty() && io::stderr().is_terminal() {
            let _gone = writeln!(io::stderr());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_is_an_id_and_an_address() {
        let server: Server = "4=10.0.0.4:7101".parse().unwrap();
        assert_eq!((server.id, server.address.as_str()), (4, "10.0.0.4:7101"));
        for wrong in ["4", "x=a:1", "0=a:1", "4=a", "=a:1"] {
            let error = wrong.parse::<Server>().unwrap_err();
            assert!(error.contains(wrong), "{error}");
        }
    }
}
