//! The result: lines while it is measured, JSON for scripts, tables for the documentation.

use std::fmt::Write as _;

use serde::Serialize;

use crate::row::Row;
use crate::svg::{self, Series};
use benches::process::machine;

/// Everything that was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) machine: String,
    pub(crate) quick: bool,
    /// Processors that programs which have nothing to do with the benchmark kept busy, on average.
    pub(crate) busy_with_others: f64,
    pub(crate) rows: Vec<Row>,
}

impl Report {
    pub(crate) fn new(quick: bool, busy_with_others: f64, rows: Vec<Row>) -> Self {
        Self {
            machine: machine(),
            quick,
            busy_with_others,
            rows,
        }
    }

    fn of<'a>(&'a self, work: &'a str) -> impl Iterator<Item = &'a Row> {
        self.rows.iter().filter(move |row| row.work == work)
    }

    /// Throughput over outstanding requests, with as many servers as the peers have.
    pub(crate) fn plot(&self) -> String {
        let mut series: Vec<Series> = Vec::new();
        let rows = self.of("acquire_release");
        for row in rows.filter(|row| row.members == 3 && !row.awake) {
            let name = match row.cell {
                Some(cell) => format!("{}, by {}, {cell} cells", row.system, row.asked_by),
                None => system(row),
            };
            let (Some(outstanding), Some(pairs)) = (row.outstanding, row.pairs_per_s) else {
                continue;
            };
            let point = (outstanding as f64, pairs);
            match series.iter_mut().find(|series| series.name == name) {
                Some(series) => series.points.push(point),
                None => series.push(Series {
                    name,
                    points: vec![point],
                }),
            }
        }
        svg::plot(
            "Leases acquired and released per second, 3 servers on one machine",
            "outstanding",
            "pairs/s",
            &series,
        )
    }

    /// Tables, one per work that was measured.
    pub(crate) fn markdown(&self) -> String {
        let mut text = format!(
            "Machine: {}{}. Other programs kept {:.1} of its processors busy meanwhile.\n",
            self.machine,
            if self.quick { "; quick run" } else { "" },
            self.busy_with_others
        );
        table(
            &mut text,
            "Acquire and release",
            &[
                "system",
                "asked by",
                "cell",
                "servers",
                "outstanding",
                "pairs/s",
                "p50 us",
                "p99 us",
                "p99.9 us",
                "messages",
                "frames",
                "bytes",
                "server CPU us",
                "client CPU us",
            ],
            self.of("acquire_release").map(|row| {
                vec![
                    system(row),
                    row.asked_by.to_owned(),
                    row.cell.unwrap_or("").to_owned(),
                    row.members.to_string(),
                    row.outstanding.map_or(String::new(), |n| match row.awake {
                        true => format!("{n}, awake"),
                        false => n.to_string(),
                    }),
                    number(row.pairs_per_s),
                    number(row.p50_us),
                    number(row.p99_us),
                    number(row.p999_us),
                    number(row.messages_per_pair),
                    number(row.frames_per_pair),
                    number(row.bytes_per_pair),
                    number(row.cpu_us_per_pair),
                    number(row.client_cpu_us_per_pair),
                ]
            }),
        );
        table(
            &mut text,
            "Leases held alive",
            &[
                "system",
                "lease ms",
                "leases",
                "lost",
                "renewals/s",
                "messages/renewal",
                "frames/renewal",
                "CPU us/renewal",
                "memory/lease",
                "note",
            ],
            self.of("hold").map(|row| {
                vec![
                    system(row),
                    row.lease_ms.map_or(String::new(), |n| n.to_string()),
                    row.leases.map_or(String::new(), |n| grouped(n as f64)),
                    row.lost.map_or(String::new(), |n| n.to_string()),
                    number(row.renewals_per_s),
                    number(row.messages_per_renewal),
                    number(row.frames_per_renewal),
                    number(row.cpu_us_per_renewal),
                    number(row.bytes_of_memory_per_lease),
                    row.note.clone().unwrap_or_default(),
                ]
            }),
        );
        table(
            &mut text,
            "Contention: all want the same free lease at once, until all know who has it",
            &[
                "system",
                "who want it",
                "rounds/s",
                "p50 us",
                "p99 us",
                "messages",
                "CPU us",
                "note",
            ],
            self.of("contention").map(|row| {
                vec![
                    system(row),
                    row.members.to_string(),
                    number(row.pairs_per_s),
                    number(row.p50_us),
                    number(row.p99_us),
                    number(row.messages_per_pair),
                    number(row.cpu_us_per_pair),
                    row.note.clone().unwrap_or_default(),
                ]
            }),
        );
        table(
            &mut text,
            "Fail-over: from the holder's end to the next holder",
            &[
                "system", "fault", "lease ms", "faults", "p50 ms", "p99 ms", "note",
            ],
            self.of("fail_over").map(|row| {
                vec![
                    system(row),
                    row.fault.unwrap_or("").to_owned(),
                    row.lease_ms.map_or(String::new(), |n| n.to_string()),
                    row.rounds.map_or(String::new(), |n| n.to_string()),
                    number(row.p50_us.map(|us| us / 1e3)),
                    number(row.p99_us.map(|us| us / 1e3)),
                    row.note.clone().unwrap_or_default(),
                ]
            }),
        );
        text
    }
}

/// The system, and whether it makes things durable.
pub(crate) fn system(row: &Row) -> String {
    match row.fsync {
        Some(true) => format!("{}, fsync", row.system),
        Some(false) => format!("{}, no fsync", row.system),
        None => row.system.to_owned(),
    }
}

fn table(text: &mut String, title: &str, heads: &[&str], lines: impl Iterator<Item = Vec<String>>) {
    let mut lines = lines.peekable();
    if lines.peek().is_none() {
        return;
    }
    // Writing to a string does not fail.
    let _ = writeln!(text, "\n### {title}\n\n| {} |", heads.join(" | "));
    let _ = writeln!(text, "|{}", "---|".repeat(heads.len()));
    for line in lines {
        let _ = writeln!(text, "| {} |", line.join(" | "));
    }
}

/// Three significant digits, thousands grouped.
fn number(value: Option<f64>) -> String {
    let Some(value) = value else {
        return String::new();
    };
    if value >= 100.0 {
        grouped(value)
    } else if value >= 10.0 {
        format!("{value:.1}")
    } else if value >= 0.1 || value == 0.0 {
        format!("{value:.2}")
    } else {
        format!("{value:.4}")
    }
}

fn grouped(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// One line for whoever waits.
pub(crate) fn print_row(row: &Row) {
    let awake = if row.awake { ", awake" } else { "" };
    let outstanding = row
        .outstanding
        .map_or(String::new(), |n| format!("{n} outstanding{awake}"));
    let mut line = format!(
        "{:<21} {:<15} by {:<6} {:<8} {:>2} {outstanding:<16}",
        system(row),
        row.work,
        row.asked_by,
        row.cell.or(row.fault).unwrap_or(""),
        row.members,
    );
    for (name, value) in [
        ("lease ms", row.lease_ms.map(|n| n as f64)),
        ("leases", row.leases.map(|n| n as f64)),
        ("/s", row.pairs_per_s.or(row.renewals_per_s)),
        ("p50 us", row.p50_us),
        ("p99 us", row.p99_us),
        ("p99.9 us", row.p999_us),
        (
            "messages",
            row.messages_per_pair.or(row.messages_per_renewal),
        ),
        ("frames", row.frames_per_pair.or(row.frames_per_renewal)),
        ("bytes", row.bytes_per_pair),
        ("server us", row.cpu_us_per_pair.or(row.cpu_us_per_renewal)),
        ("client us", row.client_cpu_us_per_pair),
    ] {
        if value.is_some() {
            let _ = write!(line, " {} {name}", number(value));
        }
    }
    if let Some(failures) = row.failures.filter(|failures| *failures > 0) {
        let _ = write!(line, " {failures} FAILED");
    }
    if let Some(note) = &row.note {
        let _ = write!(line, " ({note})");
    }
    println!("{line}");
}

const BEGIN: &str = "<!-- leasebench begins -->";
const END: &str = "<!-- leasebench ends -->";

/// Puts the tables between their marks, which are appended if they are missing.
pub(crate) fn insert(document: &str, tables: &str) -> String {
    let block = format!("{BEGIN}\n{}\n{END}", tables.trim_end());
    let marks = document.split_once(BEGIN).and_then(|(before, rest)| {
        let (_, after) = rest.split_once(END)?;
        Some((before, after))
    });
    match marks {
        Some((before, after)) => format!("{before}{block}{after}"),
        None => format!("{}\n\n## Leases\n\n{block}\n", document.trim_end()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_three_digits() {
        let shown = [1_234_567.0, 123.4, 12.34, 1.234, 0.0123, 0.0].map(|n| number(Some(n)));

        assert_eq!(
            shown,
            ["1,234,567", "123", "12.3", "1.23", "0.0123", "0.00"]
        );
        assert_eq!(number(None), "");
    }

    #[test]
    fn tables_replace_those_between_the_marks_and_nothing_else() {
        let first = insert("# Performance\n", "one");
        let second = insert(&format!("{first}\n## After\n"), "two");

        assert_eq!(
            second,
            format!("# Performance\n\n## Leases\n\n{BEGIN}\ntwo\n{END}\n\n## After\n")
        );
    }

    #[test]
    fn works_that_were_not_measured_have_no_table() {
        let row = Row {
            system: "oxfs",
            work: "fail_over",
            fault: Some("kill -9"),
            p50_us: Some(1_500_000.0),
            ..Row::default()
        };
        let text = Report::new(true, 0.0, vec![row]).markdown();

        assert!(text.contains("| oxfs | kill -9 |"));
        assert!(text.contains("| 1,500 |"));
        assert!(!text.contains("Contention"));
    }
}
