//! Two looks at a cluster as lines of a table.

use std::collections::HashMap;

use proto::mrc::{MountNumbers, SessionInfo};
use serde::Serialize;

use super::Sample;
use crate::numbers::{Asked, Said};
use crate::render::{self, Row};

/// What a server or mount does.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct Line {
    pub(super) process: String,
    /// It did not answer.
    pub(super) silent: bool,
    /// None: not known yet.
    pub(super) operations_per_s: Option<u64>,
    pub(super) read_bytes_per_s: Option<u64>,
    pub(super) written_bytes_per_s: Option<u64>,
    /// What 99 of 100 requests took at most, within a factor of two; none if there were none.
    pub(super) p99_us: Option<u64>,
    /// Requests that are not answered yet.
    pub(super) waiting: u64,
    /// Of an object server: age of the oldest change that a backup lacks. Of a metadata server: see `lag_entries`.
    pub(super) lag_ms: Option<u64>,
    /// Of a metadata server: entries of the log that are not applied; of the leader, also what followers lack.
    pub(super) lag_entries: Option<u64>,
    pub(super) free_bytes: Option<u64>,
}

impl Row for Line {
    const HEADINGS: &'static [&'static str] = &[
        "process", "ops/s", "read/s", "write/s", "p99", "queue", "lag", "free",
    ];

    fn cells(&self) -> Vec<String> {
        let dash = || "-".to_owned();
        let number = |value: Option<u64>| value.map_or_else(dash, |value| value.to_string());
        let bytes = |value: Option<u64>| value.map_or_else(dash, render::bytes);
        if self.silent {
            let mut cells = vec![self.process.clone(), "does not answer".to_owned()];
            cells.resize_with(Self::HEADINGS.len(), dash);
            return cells;
        }
        let lag = match (self.lag_ms, self.lag_entries) {
            (Some(ms), _) => render::millis(ms),
            (None, Some(entries)) => format!("{entries} entries"),
            (None, None) => dash(),
        };
        vec![
            self.process.clone(),
            number(self.operations_per_s),
            bytes(self.read_bytes_per_s),
            bytes(self.written_bytes_per_s),
            self.p99_us.map_or_else(dash, time),
            self.waiting.to_string(),
            lag,
            bytes(self.free_bytes),
        ]
    }
}

/// By what lines are sorted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Order {
    Operations,
    Bytes,
    Slowness,
    Name,
}

/// The busiest first, or by name; whoever does not answer before all.
pub(super) fn sort(lines: &mut [Line], order: Order) {
    lines.sort_by_key(|line| {
        let most = match order {
            Order::Operations => line.operations_per_s,
            Order::Bytes => {
                let read = line.read_bytes_per_s.unwrap_or(0);
                Some(read + line.written_bytes_per_s.unwrap_or(0))
            }
            Order::Slowness => line.p99_us,
            Order::Name => None,
        };
        let (kind, number) = line.process.split_once('-').unwrap_or_default();
        let number: u64 = number.parse().unwrap_or(u64::MAX);
        let most = u64::MAX - most.unwrap_or(0);
        (!line.silent, most, kind.to_owned(), number)
    });
}

/// What happened between two looks.
pub(super) fn rows(before: &Sample, now: &Sample) -> Vec<Line> {
    let earlier: HashMap<String, &Said> = before
        .servers
        .iter()
        .filter_map(|(server, said)| Some((server.name(), said.as_ref()?)))
        .collect();
    let servers = now.servers.iter().map(|(server, said)| match said {
        Some(said) => of_server(server, earlier.get(&server.name()).copied(), said),
        None => Line {
            process: server.name(),
            silent: true,
            ..Line::default()
        },
    });
    servers.chain(now.mounts.iter().map(of_mount)).collect()
}

fn of_server(server: &Asked, before: Option<&Said>, now: &Said) -> Line {
    let service = &server.role;
    let full = |name: &str| format!("{name}{{service=\"{service}\"}}");
    let times = now.times(&full("oxfs_served_seconds"));
    let since = before.map(|before| times.since(&before.times(&full("oxfs_served_seconds"))));
    let took_ms = before.map_or(0, |before| now.at.duration_since(before.at).as_millis());
    let took_ms = u64::try_from(took_ms).unwrap_or(u64::MAX);
    let rate = |name: &str| {
        let now = now.number(&full(name))?;
        let before = before?.number(&full(name))?;
        // Less than before: it was started again.
        per_second(now.checked_sub(before).unwrap_or(now), took_ms)
    };
    let lag_entries = now.number("oxfs_mrc_apply_lag_entries").map(|own| {
        let followers = now.number("oxfs_mrc_follower_lag_entries").unwrap_or(0);
        own.max(followers)
    });
    let is_osd = server.role == "osd";
    Line {
        process: server.name(),
        silent: false,
        operations_per_s: since.and_then(|since| per_second(since.count(), took_ms)),
        // It sends what is read, and receives what is written.
        read_bytes_per_s: rate("oxfs_served_sent_bytes").filter(|_| is_osd),
        written_bytes_per_s: rate("oxfs_served_received_bytes").filter(|_| is_osd),
        p99_us: since.and_then(|since| since.quantile_us(990)),
        waiting: now.number(&full("oxfs_served_waiting")).unwrap_or(0),
        lag_ms: now.number("oxfs_osd_backup_lag_ms"),
        lag_entries,
        free_bytes: now.number("oxfs_osd_free_bytes"),
    }
}

fn of_mount(mount: &SessionInfo) -> Line {
    let process = format!("mount-{}", mount.session);
    let Some(numbers) = &mount.numbers else {
        return Line {
            process,
            ..Line::default()
        };
    };
    let rate = |value: fn(&MountNumbers) -> u64| {
        let before = value(mount.numbers_before.as_ref()?);
        per_second(
            value(numbers).saturating_sub(before),
            mount.numbers_between_ms,
        )
    };
    Line {
        process,
        operations_per_s: rate(|numbers| numbers.operations),
        read_bytes_per_s: rate(|numbers| numbers.read_bytes),
        written_bytes_per_s: rate(|numbers| numbers.written_bytes),
        p99_us: (numbers.p99_us > 0).then_some(numbers.p99_us),
        waiting: numbers.waiting,
        ..Line::default()
    }
}

/// None if no time has passed.
fn per_second(count: u64, took_ms: u64) -> Option<u64> {
    let rate = (u128::from(count) * 1000).checked_div(u128::from(took_ms))?;
    u64::try_from(rate).ok()
}

fn time(us: u64) -> String {
    match us {
        u64::MAX => "> 30 s".to_owned(),
        0..10_000 => format!("{us} us"),
        _ => render::millis(us / 1000),
    }
}

/// How replicas are, and what is being done about them.
pub(super) fn headline(now: &Sample) -> String {
    let Some(jobs) = &now.jobs else {
        return "no metadata server leads: nothing is known of replicas".to_owned();
    };
    if jobs.unknown {
        return "the metadata leader is new and has not looked at the replicas yet".to_owned();
    }
    let mut text = format!("placement groups: {} healthy", jobs.pgs_healthy);
    for (count, word) in [
        (jobs.pgs_changing, "changing"),
        (jobs.pgs_below, "waiting"),
        (jobs.pgs_stuck, "stuck"),
    ] {
        if count > 0 {
            text.push_str(&format!(", {count} {word}"));
        }
    }
    if jobs.paused {
        text.push_str("; changes are paused");
    }
    if jobs.left_bytes > 0 || jobs.rate_bytes_per_s > 0 {
        text.push_str(&format!(
            "; {} left to copy at {}/s, {} copied",
            render::bytes(jobs.left_bytes),
            render::bytes(jobs.rate_bytes_per_s),
            render::bytes(jobs.moved_bytes)
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use proto::mrc::Jobs;

    use super::*;

    fn server(id: u64, role: &str, said: Option<Said>) -> (Asked, Option<Said>) {
        let asked = Asked {
            role: role.to_owned(),
            id,
            address: String::new(),
        };
        (asked, said)
    }

    fn said(at: Instant, numbers: &[(&str, u64)]) -> Said {
        Said {
            at,
            ..Said::of("1", numbers)
        }
    }

    #[test]
    fn rates_and_times_are_of_what_happened_between_the_looks() {
        let begin = Instant::now();
        let before = Sample {
            servers: vec![server(
                1,
                "osd",
                Some(said(
                    begin,
                    &[
                        (r#"oxfs_served_seconds{service="osd"} <= 128 us"#, 1000),
                        (r#"oxfs_served_sent_bytes{service="osd"}"#, 5 << 20),
                        (r#"oxfs_served_received_bytes{service="osd"}"#, 0),
                    ],
                )),
            )],
            ..Sample::default()
        };
        let now = Sample {
            servers: vec![
                server(
                    1,
                    "osd",
                    Some(said(
                        begin + Duration::from_secs(2),
                        &[
                            (r#"oxfs_served_seconds{service="osd"} <= 128 us"#, 1098),
                            (r#"oxfs_served_seconds{service="osd"} <= 4096 us"#, 2),
                            (r#"oxfs_served_sent_bytes{service="osd"}"#, 7 << 20),
                            (r#"oxfs_served_received_bytes{service="osd"}"#, 4096),
                            (r#"oxfs_served_waiting{service="osd"}"#, 3),
                            ("oxfs_osd_backup_lag_ms", 12),
                            ("oxfs_osd_free_bytes", 1 << 30),
                        ],
                    )),
                ),
                server(2, "osd", None),
            ],
            ..Sample::default()
        };

        let lines = rows(&before, &now);

        let expected = [
            "osd-1", "50", "1.0 MiB", "2.0 KiB", "4096 us", "3", "12 ms", "1.0 GiB",
        ];
        assert_eq!(lines[0].cells(), expected);
        assert_eq!(lines[1].cells()[1], "does not answer");
        // Nothing is known of one that was not there before.
        assert_eq!(rows(&Sample::default(), &now)[0].operations_per_s, None);
    }

    #[test]
    fn mounts_are_shown_by_their_two_last_reports() {
        let numbers = |operations, written_bytes| MountNumbers {
            operations,
            written_bytes,
            p99_us: 20_000,
            waiting: 1,
            ..MountNumbers::default()
        };
        let mount = SessionInfo {
            session: 7,
            numbers: Some(numbers(300, 10 << 20)),
            numbers_before: Some(numbers(100, 0)),
            numbers_between_ms: 10_000,
            ..SessionInfo::default()
        };

        let line = of_mount(&mount);

        let expected = ["mount-7", "20", "0 B", "1.0 MiB", "20 ms", "1", "-", "-"];
        assert_eq!(line.cells(), expected);
        assert_eq!(of_mount(&SessionInfo::default()).operations_per_s, None);
    }

    #[test]
    fn silent_ones_come_first_then_the_busiest_then_by_number() {
        let line = |process: &str, operations, p99, silent| Line {
            process: process.to_owned(),
            operations_per_s: Some(operations),
            p99_us: Some(p99),
            silent,
            ..Line::default()
        };
        let mut lines = vec![
            line("osd-10", 5, 100, false),
            line("osd-9", 5, 200, false),
            line("mrc-1", 50, 5, false),
            line("osd-3", 0, 0, true),
        ];
        let names = |lines: &[Line]| -> Vec<String> {
            lines.iter().map(|line| line.process.clone()).collect()
        };

        sort(&mut lines, Order::Operations);
        assert_eq!(names(&lines), ["osd-3", "mrc-1", "osd-9", "osd-10"]);
        sort(&mut lines, Order::Slowness);
        assert_eq!(names(&lines), ["osd-3", "osd-9", "osd-10", "mrc-1"]);
        sort(&mut lines, Order::Name);
        assert_eq!(names(&lines), ["osd-3", "mrc-1", "osd-9", "osd-10"]);
    }

    #[test]
    fn headline_tells_of_jobs_only_while_there_are_any() {
        let with = |jobs| {
            headline(&Sample {
                jobs,
                ..Sample::default()
            })
        };
        let healthy = Jobs {
            pgs_healthy: 32,
            ..Jobs::default()
        };

        assert_eq!(with(Some(healthy.clone())), "placement groups: 32 healthy");
        assert!(with(None).contains("no metadata server leads"));
        let busy = Jobs {
            pgs_changing: 2,
            paused: true,
            left_bytes: 3 << 30,
            ..healthy
        };
        let text = "placement groups: 32 healthy, 2 changing; changes are paused; 3.0 GiB left to copy at \
                    0 B/s, 0 B copied";
        assert_eq!(with(Some(busy)), text);
    }
}
