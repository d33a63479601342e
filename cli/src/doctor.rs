//! `doctor`: what everything waits for.

use std::collections::BTreeMap;

use proto::osd::{self, request::Op};
use serde::Serialize;
use shell::admin::Admin;
use shell::link::CallError;

use crate::find::Found;
use crate::leases::name;
use crate::osds::{Osd, ask_all};
use crate::outcome::{Done, Failure};
use crate::render::{self, Row};
use crate::status::{Answers, leader};

/// Something that waits, or keeps others waiting.
#[derive(Debug, Default, Eq, PartialEq, Serialize)]
struct Finding {
    /// Whose words these are, or whom they are about.
    server: String,
    /// What waits: an object, or nothing if it concerns everything at the server.
    object: Option<String>,
    /// One word: `holder`, `lease`, `no_quorum`, `quarantine`, `old_view`, `too_many_leases`,
    /// `stopping`, `activation`, `catch_up`, `quorum`, `no_leader`, `unreachable`, `silent`,
    /// `degraded`, `store_failed`, `damaged`, `slow_disk`.
    waits_for: String,
    /// Requests that wait.
    requests: u32,
    /// How long the oldest has waited.
    waited_ms: u64,
    /// Object server that holds the lease waited for.
    holder: Option<u64>,
    /// How much longer that lease runs.
    remaining_ms: u64,
    /// The same for people.
    text: String,
}

impl Row for Finding {
    const HEADINGS: &'static [&'static str] =
        &["server", "object", "requests", "since", "waits for"];

    fn cells(&self) -> Vec<String> {
        let many = |text: String| match self.requests {
            0 => "-".to_owned(),
            _ => text,
        };
        vec![
            self.server.clone(),
            self.object.clone().unwrap_or_else(|| "-".to_owned()),
            many(self.requests.to_string()),
            many(render::millis(self.waited_ms)),
            self.text.clone(),
        ]
    }
}

pub(crate) async fn run(admin: &Admin, found: &Found) -> Result<Done, Failure> {
    let answers = crate::status::ask(admin, found).await;
    let mut findings = of_metadata(&answers);
    let silent = answers.iter().filter(|(_, answer)| answer.is_err());
    let mut unasked: Vec<String> = silent
        .map(|(address, _)| format!("mrc at {address}"))
        .collect();
    let osds = known_osds(&answers, found);
    let mut missing = Vec::new();
    if osds.is_empty() {
        missing.push("no object server is known, so none was asked".to_owned());
    }
    let stats = Op::LeaseStats(osd::LeaseStats {});
    let stalls = Op::Stalls(osd::Stalls {});
    let (stats, stalls) = tokio::join!(
        ask_all(admin, &osds, None, &stats),
        ask_all(admin, &osds, None, &stalls)
    );
    for ((osd, stats), (_, stalls)) in stats.iter().zip(&stalls) {
        if stats.is_err() {
            unasked.push(format!("osd {}", osd.id));
        }
        findings.extend(of_osd(osd, stats, stalls));
    }
    if !unasked.is_empty() {
        missing.push(format!("could not ask {}", unasked.join(", ")));
    }
    Ok(show(&findings, missing))
}

fn show(findings: &[Finding], missing: Vec<String>) -> Done {
    let text = match (findings.is_empty(), missing.is_empty()) {
        (true, true) => "nothing waits".to_owned(),
        (true, false) => "nothing is known to wait".to_owned(),
        (false, _) => render::table(findings),
    };
    Done {
        text,
        json: render::json(findings),
        missing,
    }
}

/// What the metadata cluster waits for.
fn of_metadata(answers: &Answers) -> Vec<Finding> {
    let mut findings = Vec::new();
    let heard = answers.iter().filter(|(_, answer)| answer.is_ok()).count();
    for (address, answer) in answers {
        match answer {
            Err(error) => findings.push(unreachable(format!("mrc at {address}"), error)),
            Ok(status) if !status.disk_slow.is_empty() => findings.push(Finding {
                server: format!("mrc at {address}"),
                waits_for: "slow_disk".to_owned(),
                text: format!(
                    "its {}; names wait only if too few of the others have better disks",
                    status.disk_slow
                ),
                ..Finding::default()
            }),
            Ok(_) => {}
        }
    }
    match leader(answers) {
        None => findings.push(Finding {
            server: "mrc".to_owned(),
            waits_for: "no_leader".to_owned(),
            text: format!(
                "every change and look-up of names waits: no metadata server leads; {heard} of {} \
                 answer, and a majority must reach each other",
                answers.len()
            ),
            ..Finding::default()
        }),
        Some(status) if status.pgs_degraded > 0 => findings.push(Finding {
            server: "mrc".to_owned(),
            waits_for: "degraded".to_owned(),
            text: format!(
                "{} of {} placement groups have replicas that are down or being brought up; \
                 `xfs-admin pg list` shows which",
                status.pgs_degraded, status.pgs_total
            ),
            ..Finding::default()
        }),
        Some(_) => {}
    }
    findings
}

fn unreachable(server: String, error: &CallError) -> Finding {
    Finding {
        server,
        waits_for: "unreachable".to_owned(),
        text: format!("whoever needs it waits: {error}"),
        ..Finding::default()
    }
}

/// All object servers that anybody knows.
fn known_osds(answers: &Answers, found: &Found) -> Vec<Osd> {
    let mut osds = BTreeMap::new();
    if let Some(local) = &found.local {
        for server in local.servers() {
            if server.role.name() == "osd" {
                osds.insert(server.id, server.address);
            }
        }
    }
    let heard = answers
        .iter()
        .filter_map(|(_, answer)| answer.as_ref().ok());
    for server in heard.flat_map(|status| &status.servers) {
        if server.role == "osd" && !server.address.is_empty() {
            osds.insert(server.id, server.address.clone());
        }
    }
    osds.into_iter()
        .map(|(id, address)| Osd { id, address })
        .collect()
}

type Answer = Result<osd::Response, CallError>;

/// What an object server waits for. Numbers are answered at once, stalls by the threads that serve
/// objects, so the two can differ.
fn of_osd(osd: &Osd, stats: &Answer, stalls: &Answer) -> Vec<Finding> {
    let server = format!("osd {}", osd.id);
    let mut findings = Vec::new();
    match stats {
        Err(error) => {
            let server = format!("{server} at {}", osd.address);
            return vec![unreachable(server, error)];
        }
        Ok(answer) => {
            findings.extend(quarantine(&server, &answer.metrics));
            findings.extend(failed_store(&server, &answer.metrics));
            findings.extend(damaged(&server, osd.id, &answer.metrics));
        }
    }
    match stalls {
        Err(error) => findings.push(Finding {
            server,
            waits_for: "silent".to_owned(),
            text: format!(
                "the threads that serve objects do not answer ({error}); they may wait for the disk"
            ),
            ..Finding::default()
        }),
        Ok(answer) => findings.extend(answer.stalls.iter().map(|stall| of_stall(&server, stall))),
    }
    findings
}

fn quarantine(server: &str, metrics: &[osd::Metric]) -> Option<Finding> {
    let metric = metrics
        .iter()
        .find(|metric| metric.name == "oxfs_lease_quarantine_ms" && metric.value > 0)?;
    Some(Finding {
        server: server.to_owned(),
        waits_for: "quarantine".to_owned(),
        remaining_ms: metric.value,
        text: format!(
            "it started a moment ago and takes no part in leases for another {}",
            render::millis(metric.value)
        ),
        ..Finding::default()
    })
}

fn failed_store(server: &str, metrics: &[osd::Metric]) -> Option<Finding> {
    metrics
        .iter()
        .find(|metric| metric.name == "oxfs_osd_store_failed" && metric.value > 0)?;
    Some(Finding {
        server: server.to_owned(),
        waits_for: "store_failed".to_owned(),
        text:
            "a write to its disk failed, so it takes no changes: check the disk, then restart the \
               server, which is brought up from the others"
                .to_owned(),
        ..Finding::default()
    })
}

fn damaged(server: &str, id: u64, metrics: &[osd::Metric]) -> Option<Finding> {
    let metric = metrics.iter().find(|metric| {
        metric.name == r#"oxfs_osd_scrub_findings{outcome="unrepaired"}"# && metric.value > 0
    })?;
    Some(Finding {
        server: server.to_owned(),
        waits_for: "damaged".to_owned(),
        text: format!(
            "damaged objects that could not be repaired: {}; `xfs-admin scrub status --osd {id}` says \
             which, and why",
            metric.value
        ),
        ..Finding::default()
    })
}

fn of_stall(server: &str, stall: &osd::Stall) -> Finding {
    Finding {
        server: server.to_owned(),
        object: stall
            .object
            .map(|object| name(object.volume, object.inode, object.column)),
        waits_for: stall.waits_for.clone(),
        requests: stall.requests,
        waited_ms: stall.waited_ms,
        holder: (stall.holder != 0).then_some(stall.holder),
        remaining_ms: stall.remaining_ms,
        text: stall.text.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::mrc::ClusterStatus;

    fn down() -> CallError {
        CallError::Refused("connection refused".to_owned())
    }

    fn status(answered_by_leader: bool, pgs_degraded: u64) -> ClusterStatus {
        ClusterStatus {
            answered_by_leader,
            pgs_total: 32,
            pgs_degraded,
            ..ClusterStatus::default()
        }
    }

    fn words(findings: &[Finding]) -> Vec<&str> {
        let words = findings.iter().map(|finding| finding.waits_for.as_str());
        words.collect()
    }

    #[test]
    fn a_sound_cluster_waits_for_nothing() {
        let answers = vec![("a:1".to_owned(), Ok(status(true, 0)))];
        let osd = Osd {
            id: 1,
            address: "b:1".to_owned(),
        };
        let quiet = || Ok(osd::Response::default());

        assert_eq!(of_metadata(&answers), []);
        assert_eq!(of_osd(&osd, &quiet(), &quiet()), []);
        assert_eq!(show(&[], Vec::new()).text, "nothing waits");
    }

    #[test]
    fn missing_leader_unreachable_servers_and_degraded_groups_are_named() {
        let alone = vec![
            ("a:1".to_owned(), Ok(status(false, 0))),
            ("a:2".to_owned(), Err(down())),
        ];
        let findings = of_metadata(&alone);
        assert_eq!(words(&findings), ["unreachable", "no_leader"]);
        assert!(findings[0].server.contains("a:2"));
        assert!(findings[1].text.contains("1 of 2"));

        let degraded = vec![("a:1".to_owned(), Ok(status(true, 3)))];
        let findings = of_metadata(&degraded);
        assert_eq!(words(&findings), ["degraded"]);
        assert!(findings[0].text.contains("3 of 32"));
    }

    #[test]
    fn metadata_server_with_a_slow_disk_is_named() {
        let slow = ClusterStatus {
            disk_slow: "disk is slow: for 9 s".to_owned(),
            ..status(true, 0)
        };
        let answers = vec![
            ("a:1".to_owned(), Ok(slow)),
            ("a:2".to_owned(), Ok(status(false, 0))),
        ];

        let findings = of_metadata(&answers);

        assert_eq!(words(&findings), ["slow_disk"]);
        assert!(findings[0].server.contains("a:1"));
        assert!(findings[0].text.starts_with("its disk is slow: for 9 s"));
    }

    #[test]
    fn a_server_is_unreachable_or_silent_or_in_quarantine_or_says_what_waits() {
        let osd = Osd {
            id: 2,
            address: "b:1".to_owned(),
        };
        let quiet = || Ok(osd::Response::default());
        let fresh = Ok(osd::Response {
            metrics: vec![osd::Metric {
                name: "oxfs_lease_quarantine_ms".to_owned(),
                value: 900,
                ..osd::Metric::default()
            }],
            ..osd::Response::default()
        });
        let stalled = Ok(osd::Response {
            stalls: vec![osd::Stall {
                object: Some(osd::ObjectRef {
                    volume: 1,
                    inode: 42,
                    column: 0,
                }),
                requests: 3,
                waited_ms: 1200,
                waits_for: "holder".to_owned(),
                text: "object server 3 holds it".to_owned(),
                holder: 3,
                remaining_ms: 500,
                ..osd::Stall::default()
            }],
            ..osd::Response::default()
        });

        assert_eq!(
            words(&of_osd(&osd, &Err(down()), &quiet())),
            ["unreachable"]
        );
        assert_eq!(words(&of_osd(&osd, &quiet(), &Err(down()))), ["silent"]);
        assert_eq!(words(&of_osd(&osd, &fresh, &quiet())), ["quarantine"]);
        for (value, expected) in [(0, &[][..]), (1, &["store_failed"][..])] {
            let answer = Ok(osd::Response {
                metrics: vec![osd::Metric {
                    name: "oxfs_osd_store_failed".to_owned(),
                    value,
                    ..osd::Metric::default()
                }],
                ..osd::Response::default()
            });
            assert_eq!(words(&of_osd(&osd, &answer, &quiet())), expected);
        }
        let damaged = Ok(osd::Response {
            metrics: vec![osd::Metric {
                name: "oxfs_osd_scrub_findings{outcome=\"unrepaired\"}".to_owned(),
                value: 2,
                ..osd::Metric::default()
            }],
            ..osd::Response::default()
        });
        let findings = of_osd(&osd, &damaged, &quiet());
        assert_eq!(words(&findings), ["damaged"]);
        assert!(findings[0].text.contains("scrub status --osd 2"));
        let findings = of_osd(&osd, &quiet(), &stalled);
        assert_eq!(findings[0].object.as_deref(), Some("1/42"));
        assert_eq!(findings[0].holder, Some(3));
        let text = show(&findings, Vec::new()).text;
        assert!(
            text.contains("1.2 s") && text.contains("holds it"),
            "{text}"
        );
    }
}
