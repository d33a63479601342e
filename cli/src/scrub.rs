//! `scrub`: object servers read and compare what they hold; each is asked for itself.

use std::time::{SystemTime, UNIX_EPOCH};

use proto::osd::{self, ScrubDamage, ScrubOutcome, request::Op};
use serde::Serialize;
use shell::admin::Admin;

use crate::leases::{all_osds, name};
use crate::lists::odd;
use crate::osds::{Osd, ask_all, silent};
use crate::outcome::{Done, Failure};
use crate::render::{self, Row};

/// One server's scrub.
#[derive(Debug, Serialize)]
struct Scrub {
    osd: u64,
    /// `running` or `idle`.
    state: &'static str,
    /// Of the round under way, or of the last one; 0: there was none. Milliseconds since 1970.
    began_ms: i64,
    /// 0 while it is under way.
    ended_ms: i64,
    bytes: u64,
    objects: u64,
    /// Objects that could not be compared with all replicas.
    uncompared: u64,
    bytes_per_s_max: u64,
    days: u32,
    /// 0: when it is asked for.
    next_ms: i64,
    repaired: usize,
    repairing: usize,
    unrepaired: usize,
    findings: Vec<Finding>,
}

/// Something that was wrong with an object's copy.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
struct Finding {
    osd: u64,
    object: String,
    /// `blocks`, `different`, `missing`, `outdated` or `unreadable`.
    damage: &'static str,
    /// `repaired`, `repairing`, `no_good_copy`, `undecided` or `later`.
    outcome: &'static str,
    /// Blocks of 4 KiB; 0 if it is about the whole copy.
    blocks: u64,
    repaired_blocks: u64,
    found_ms: i64,
}

impl Row for Scrub {
    const HEADINGS: &'static [&'static str] = &[
        "osd",
        "state",
        "began",
        "took",
        "read",
        "objects",
        "next",
        "repaired",
        "unrepaired",
    ];

    fn cells(&self) -> Vec<String> {
        let now = now_ms();
        let dash = || "-".to_owned();
        let took = match (self.began_ms, self.ended_ms) {
            (0, _) => dash(),
            (began, 0) => span(now - began),
            (began, ended) => span(ended - began),
        };
        vec![
            self.osd.to_string(),
            self.state.to_owned(),
            match self.began_ms {
                0 => dash(),
                began => format!("{} ago", span(now - began)),
            },
            took,
            render::bytes(self.bytes),
            match self.uncompared {
                0 => self.objects.to_string(),
                some => format!("{} ({some} in use or not compared)", self.objects),
            },
            match self.next_ms {
                0 => "when asked for".to_owned(),
                next => format!("in {}", span(next - now)),
            },
            (self.repaired + self.repairing).to_string(),
            self.unrepaired.to_string(),
        ]
    }
}

impl Row for Finding {
    const HEADINGS: &'static [&'static str] =
        &["osd", "object", "found", "blocks", "repaired", "what"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.osd.to_string(),
            self.object.clone(),
            format!("{} ago", span(now_ms() - self.found_ms)),
            self.blocks.to_string(),
            self.repaired_blocks.to_string(),
            self.sentence(),
        ]
    }
}

impl Finding {
    fn of(osd: u64, found: &osd::ScrubFinding) -> Option<Self> {
        let object = found.object?;
        Some(Self {
            osd,
            object: name(object.volume, object.inode, object.column),
            damage: match found.damage() {
                ScrubDamage::ScrubBlocks => "blocks",
                ScrubDamage::ScrubDifferent => "different",
                ScrubDamage::ScrubMissing => "missing",
                ScrubDamage::ScrubOutdated => "outdated",
                ScrubDamage::ScrubUnreadable => "unreadable",
                ScrubDamage::Unspecified => "unknown",
            },
            outcome: match found.outcome() {
                ScrubOutcome::ScrubRepaired => "repaired",
                ScrubOutcome::ScrubRepairing => "repairing",
                ScrubOutcome::ScrubNoGoodCopy => "no_good_copy",
                ScrubOutcome::ScrubUndecided => "undecided",
                ScrubOutcome::ScrubLater => "later",
                ScrubOutcome::Unspecified => "unknown",
            },
            blocks: found.blocks,
            repaired_blocks: found.repaired,
            found_ms: found.found_ms,
        })
    }

    fn is_unrepaired(&self) -> bool {
        !matches!(self.outcome, "repaired" | "repairing")
    }

    fn sentence(&self) -> String {
        let damage = match self.damage {
            "blocks" => "blocks did not fit their checksums",
            "different" => "blocks differed from the other replicas",
            "missing" => "the file was missing",
            "outdated" => "the file was of an older state",
            "unreadable" => "the file had no header that can be believed",
            other => other,
        };
        let outcome = match self.outcome {
            "repaired" => "repaired",
            "repairing" => "being repaired",
            "no_good_copy" => {
                "no replica has a good copy: reading it fails with EIO; write it anew or restore the file"
            }
            "undecided" => {
                "the replicas differ and none is in the majority: compare the file with what it should be, and write \
                 it anew"
            }
            "later" => {
                "not yet: a replica could not be asked, or the file is being changed; tried again within the hour"
            }
            other => other,
        };
        format!("{damage}; {outcome}")
    }
}

/// Has one server, or all, begin a round.
pub(crate) async fn start(admin: &Admin, osd: Option<u64>) -> Result<Done, Failure> {
    let op = Op::ScrubStart(osd::ScrubStart {});
    let (scrubs, missing) = gather(admin, osd, &op).await?;
    if scrubs.is_empty() {
        return Err(Failure::failed(missing.join("; ")));
    }
    let ids: Vec<u64> = scrubs.iter().map(|scrub| scrub.osd).collect();
    Ok(Done {
        text: format!(
            "scrubbing: object servers {}; `xfs-admin scrub status` shows how far they are",
            render::numbers(&ids)
        ),
        json: render::json(&scrubs),
        missing,
    })
}

/// What was done and found.
pub(crate) async fn status(admin: &Admin, osd: Option<u64>) -> Result<Done, Failure> {
    let op = Op::ScrubStatus(osd::ScrubStatus {});
    let (scrubs, missing) = gather(admin, osd, &op).await?;
    if scrubs.is_empty() {
        return Err(Failure::failed(missing.join("; ")));
    }
    Ok(Done {
        text: text(&scrubs),
        json: render::json(&scrubs),
        missing,
    })
}

fn text(scrubs: &[Scrub]) -> String {
    let mut text = render::table(scrubs);
    let mut findings: Vec<Finding> = scrubs
        .iter()
        .flat_map(|scrub| scrub.findings.iter().cloned())
        .collect();
    // What needs somebody first, the newest of each kind first.
    findings.sort_by_key(|one| (!one.is_unrepaired(), -one.found_ms));
    if !findings.is_empty() {
        text.push_str("\n\n");
        text.push_str(&render::table(&findings));
    }
    text
}

/// One sentence for each of these servers that has damage it could not repair.
pub(crate) async fn troubles(admin: &Admin, osds: &[Osd]) -> Vec<String> {
    let op = Op::ScrubStatus(osd::ScrubStatus {});
    let answers = ask_all(admin, osds, None, &op).await;
    let heard = answers
        .into_iter()
        // Who does not answer is noticed otherwise.
        .filter_map(|(osd, answer)| Some(view(osd.id, &answer.ok()?.scrub?)));
    heard.filter_map(|scrub| trouble(&scrub)).collect()
}

fn trouble(scrub: &Scrub) -> Option<String> {
    let lost = |outcome: &str| {
        let findings = scrub.findings.iter();
        findings.filter(|one| one.outcome == outcome).count()
    };
    (scrub.unrepaired > 0).then(|| {
        let objects = if scrub.unrepaired == 1 { "object" } else { "objects" };
        format!(
            "osd-{} has {} damaged {objects} that could not be repaired ({} without a good copy anywhere): \
             `xfs-admin scrub status --osd {}` says which",
            scrub.osd,
            scrub.unrepaired,
            lost("no_good_copy"),
            scrub.osd
        )
    })
}

async fn gather(
    admin: &Admin,
    only: Option<u64>,
    op: &Op,
) -> Result<(Vec<Scrub>, Vec<String>), Failure> {
    let mut osds = all_osds(admin).await?;
    osds.retain(|osd| only.is_none_or(|only| osd.id == only));
    if osds.is_empty() {
        return Err(Failure::failed(match only {
            Some(osd) => format!(
                "there is no object server {osd}; `xfs-admin osd list` shows those there are"
            ),
            None => "there is no object server".to_owned(),
        }));
    }
    let mut scrubs = Vec::new();
    let mut missing = Vec::new();
    for (osd, answer) in ask_all(admin, &osds, None, op).await {
        match answer {
            Ok(answer) => scrubs.push(view(osd.id, &answer.scrub.ok_or_else(odd)?)),
            Err(error) => missing.push(silent(&osd, &error)),
        }
    }
    Ok((scrubs, missing))
}

fn view(osd: u64, scrub: &osd::Scrub) -> Scrub {
    let round = scrub.present.or(scrub.last).unwrap_or_default();
    let findings: Vec<Finding> = scrub
        .findings
        .iter()
        .filter_map(|found| Finding::of(osd, found))
        .collect();
    let count = |outcome: &str| findings.iter().filter(|one| one.outcome == outcome).count();
    Scrub {
        osd,
        state: match scrub.present {
            Some(_) => "running",
            None => "idle",
        },
        began_ms: round.began_ms,
        ended_ms: round.ended_ms,
        bytes: round.bytes,
        objects: round.objects,
        uncompared: round.uncompared,
        bytes_per_s_max: scrub.bytes_per_s,
        days: scrub.days,
        next_ms: scrub.next_ms,
        repaired: count("repaired"),
        repairing: count("repairing"),
        unrepaired: findings.iter().filter(|one| one.is_unrepaired()).count(),
        findings,
    }
}

/// A stretch of time in its two largest units.
fn span(ms: i64) -> String {
    let seconds = ms.max(0) / 1000;
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, _, _) => format!("{hours} h {} min", minutes % 60),
        _ => format!("{days} d {} h", hours % 24),
    }
}

fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| i64::try_from(now.as_millis()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(findings: &[(ScrubDamage, ScrubOutcome)]) -> Scrub {
        let now = now_ms();
        let finding = |(damage, outcome): &(ScrubDamage, ScrubOutcome)| osd::ScrubFinding {
            object: Some(osd::ObjectRef {
                volume: 1,
                inode: 42,
                column: 0,
            }),
            damage: (*damage).into(),
            outcome: (*outcome).into(),
            blocks: 3,
            repaired: 1,
            found_ms: now - 3_700_000,
            ..osd::ScrubFinding::default()
        };
        view(
            2,
            &osd::Scrub {
                last: Some(osd::ScrubRound {
                    number: 1,
                    began_ms: now - 90_000_000,
                    ended_ms: now - 89_990_000,
                    bytes: 5 << 20,
                    objects: 7,
                    uncompared: 1,
                }),
                next_ms: now + 90_001_000,
                findings: findings.iter().map(finding).collect(),
                ..osd::Scrub::default()
            },
        )
    }

    #[test]
    fn what_could_not_be_repaired_comes_first_and_is_a_trouble() {
        let repaired = (ScrubDamage::ScrubMissing, ScrubOutcome::ScrubRepaired);
        let lost = (ScrubDamage::ScrubBlocks, ScrubOutcome::ScrubNoGoodCopy);
        assert_eq!(trouble(&status(&[repaired])), None);

        let bad = status(&[repaired, lost]);

        let said = trouble(&bad).unwrap();
        assert!(said.starts_with("osd-2 has 1 damaged object"), "{said}");
        let text = text(&[bad]);
        let (eio, missing) = (text.find("EIO").unwrap(), text.find("missing").unwrap());
        assert!(eio < missing, "{text}");
        assert!(
            text.contains("1/42") && text.contains("1 h 1 min ago"),
            "{text}"
        );
        assert!(
            text.contains("in 1 d 1 h") && text.contains("5.0 MiB"),
            "{text}"
        );
        assert!(text.contains("10 s"), "{text}");
    }

    #[test]
    fn server_that_has_never_scrubbed_has_nothing_to_show() {
        let fresh = view(1, &osd::Scrub::default());

        let text = text(&[fresh]);

        assert!(
            text.contains("when asked for") && text.contains("idle"),
            "{text}"
        );
    }
}
