//! `metrics`: where Prometheus finds the numbers of each process.

use serde::Serialize;
use shell::admin::Admin;

use crate::find::Found;
use crate::numbers::{Asker, sessions};
use crate::outcome::{Done, Failure};
use crate::render::{self, Row};
use crate::status;

/// A process that serves numbers.
#[derive(Debug, Eq, PartialEq)]
struct Endpoint {
    process: String,
    /// Empty: it does not serve them.
    address: String,
}

/// The same, in the form of Prometheus's `file_sd_configs`.
#[derive(Serialize)]
struct Target<'a> {
    targets: [&'a str; 1],
    labels: Labels<'a>,
}

#[derive(Serialize)]
struct Labels<'a> {
    process: &'a str,
}

impl Serialize for Endpoint {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let target = Target {
            targets: [self.address.as_str()],
            labels: Labels {
                process: &self.process,
            },
        };
        target.serialize(serializer)
    }
}

impl Row for Endpoint {
    const HEADINGS: &'static [&'static str] = &["process", "metrics"];

    fn cells(&self) -> Vec<String> {
        let address = match self.address.as_str() {
            "" => "not served; set `metrics_listen`".to_owned(),
            address => format!("http://{address}/metrics"),
        };
        vec![self.process.clone(), address]
    }
}

/// Asks everybody.
pub(crate) async fn run(admin: &Admin, found: &Found) -> Result<Done, Failure> {
    let answers = status::ask(admin, found).await;
    let servers = status::known_servers(&answers, found);
    let mut endpoints = Vec::new();
    let mut missing = Vec::new();
    for (server, said) in Asker::default().ask(admin, &servers).await {
        match said {
            Ok(said) => endpoints.push(Endpoint {
                process: server.name(),
                address: said.metrics_address,
            }),
            Err(error) => missing.push(format!("could not ask {}: {error}", server.name())),
        }
    }
    match sessions(admin).await {
        Ok(mounts) => endpoints.extend(mounts.into_iter().map(|mount| Endpoint {
            process: format!("mount-{}", mount.session),
            address: mount.numbers.unwrap_or_default().metrics_address,
        })),
        Err(failure) => missing.push(format!("could not ask for mounts: {}", failure.message())),
    }
    Ok(show(&endpoints, missing))
}

fn show(endpoints: &[Endpoint], missing: Vec<String>) -> Done {
    let served: Vec<&Endpoint> = endpoints
        .iter()
        .filter(|endpoint| !endpoint.address.is_empty())
        .collect();
    Done {
        text: render::table(endpoints),
        json: render::json(&served),
        missing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_what_prometheus_reads_and_leaves_out_who_serves_nothing() {
        let endpoint = |process: &str, address: &str| Endpoint {
            process: process.to_owned(),
            address: address.to_owned(),
        };

        let done = show(
            &[endpoint("osd-1", "127.0.0.1:9"), endpoint("mount-3", "")],
            Vec::new(),
        );

        let json = r#"[{"targets":["127.0.0.1:9"],"labels":{"process":"osd-1"}}]"#;
        assert_eq!(done.json, json);
        assert!(done.text.contains("http://127.0.0.1:9/metrics"));
        assert!(done.text.contains("mount-3  not served"), "{}", done.text);
    }
}
