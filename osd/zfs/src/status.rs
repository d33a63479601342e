//! A pool's health, read from `zpool status`.
//!
//! The text has had the same shape since zfs-fuse: a line for each of `pool`, `state`, `scan` and so on,
//! a table of devices that is indented by depth, and the errors in files. What is not understood is left
//! out or `Unknown`; no text makes the parser fail.

use crate::numbers::rounded;
use crate::scan::Scan;

/// A pool's health.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PoolStatus {
    /// Whether the pool works.
    pub state: State,
    /// What is wrong with it, if anything, in the pool's words.
    pub problem: Option<String>,
    /// What an administrator should do about it, in the pool's words.
    pub action: Option<String>,
    /// The present or last scrub or resilver.
    pub scan: Option<Scan>,
    /// The pool itself and all devices below it, each before those that it is made of.
    pub vdevs: Vec<Vdev>,
    /// Errors in data that no device could repair.
    pub data_errors: DataErrors,
}

/// A device of a pool, or a group of devices.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Vdev {
    /// Path or name; `mirror-0` and the like for groups.
    pub name: String,
    /// 0: the pool, or a spare or the like; 1: what is below it; and so on.
    pub depth: usize,
    /// What it is for.
    pub role: Role,
    /// Whether it works.
    pub state: State,
    /// Reads that failed; rounded to three digits from 1024 on in old versions.
    pub read_errors: u64,
    /// Writes that failed; rounded likewise.
    pub write_errors: u64,
    /// Blocks that were not what was written; rounded likewise.
    pub checksum_errors: u64,
    /// What else the pool says about it, or nothing.
    pub note: String,
}

/// What a device is for.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Role {
    /// Data.
    #[default]
    Data,
    /// The intent log.
    Log,
    /// Second cache of reads.
    Cache,
    /// Steps in for others.
    Spare,
    /// Metadata and small blocks.
    Special,
    /// The table of duplicates.
    Dedup,
}

/// Whether a pool or device works.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum State {
    /// It works.
    Online,
    /// It works with less redundancy than it should have.
    Degraded,
    /// It was given up because of its errors.
    Faulted,
    /// An administrator took it away.
    Offline,
    /// It can't be opened.
    Unavailable,
    /// It was pulled out.
    Removed,
    /// The pool waits for its devices: nothing can be read or written.
    Suspended,
    /// A spare that is free.
    Spare,
    /// A spare that steps in.
    InUse,
    /// A word that this version doesn't know.
    #[default]
    Unknown,
}

/// Errors in data that no device could repair.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum DataErrors {
    /// None are known.
    None,
    /// That many blocks.
    Some(u64),
    /// The pool doesn't tell.
    #[default]
    Unknown,
}

impl State {
    fn parse(word: &str) -> Option<Self> {
        Some(match word {
            "ONLINE" => Self::Online,
            "DEGRADED" => Self::Degraded,
            "FAULTED" => Self::Faulted,
            "OFFLINE" => Self::Offline,
            "UNAVAIL" => Self::Unavailable,
            "REMOVED" => Self::Removed,
            "SUSPENDED" => Self::Suspended,
            "AVAIL" => Self::Spare,
            "INUSE" => Self::InUse,
            _ => return None,
        })
    }
}

impl PoolStatus {
    /// Reads what `zpool status <pool>` printed; none if it is not about a pool.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let sections = sections(text);
        let find = |keys: &[&str]| {
            let section = sections.iter().find(|(key, _)| keys.contains(key));
            section.map(|(_, lines)| lines.as_slice())
        };
        let joined = |keys| {
            let words = find(keys)?.iter().flat_map(|line| line.split_whitespace());
            Some(words.collect::<Vec<_>>().join(" "))
        };
        find(&["pool"])?;
        let state = joined(&["state"])?;
        Some(Self {
            state: State::parse(&state).unwrap_or_default(),
            problem: joined(&["status"]),
            action: joined(&["action"]),
            scan: joined(&["scan", "scrub"]).and_then(|text| Scan::parse(&text)),
            vdevs: find(&["config"]).map(vdevs).unwrap_or_default(),
            data_errors: joined(&["errors"])
                .map(|text| data_errors(&text))
                .unwrap_or_default(),
        })
    }

    /// Whether nothing is wrong: all is online and no error was counted.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        let is_fine = |vdev: &Vdev| {
            matches!(vdev.state, State::Online | State::Spare)
                && vdev.read_errors == 0
                && vdev.write_errors == 0
                && vdev.checksum_errors == 0
        };
        self.state == State::Online
            && self.data_errors == DataErrors::None
            && self.vdevs.iter().all(is_fine)
    }
}

/// Keys of lines, each with its line and those below that belong to it. A pool of the same text that
/// comes second is left out.
fn sections(text: &str) -> Vec<(&str, Vec<&str>)> {
    const KEYS: [&str; 12] = [
        "pool",
        "state",
        "status",
        "action",
        "see",
        "scan",
        "scrub",
        "remove",
        "checkpoint",
        "dedup",
        "config",
        "errors",
    ];
    let mut sections: Vec<(&str, Vec<&str>)> = Vec::new();
    for line in text.lines() {
        let head = line.trim_start_matches(' ').split_once(':');
        match head.filter(|(key, _)| KEYS.contains(key)) {
            Some(("pool", _)) if !sections.is_empty() => break,
            Some((key, rest)) => sections.push((key, vec![rest])),
            None => {
                if let Some((_, lines)) = sections.last_mut() {
                    lines.push(line);
                }
            }
        }
    }
    sections
}

fn vdevs(lines: &[&str]) -> Vec<Vdev> {
    let mut role = Role::default();
    let mut vdevs = Vec::new();
    for line in lines {
        let Some(line) = line.strip_prefix('\t') else {
            continue;
        };
        if let Some(new) = heading(line.trim_end()) {
            role = new;
        } else if let Some(vdev) = vdev(line, role) {
            vdevs.push(vdev);
        }
    }
    vdevs
}

fn heading(line: &str) -> Option<Role> {
    // Headings are followed by nothing, or by more words of the table's head.
    Some(match line {
        "logs" => Role::Log,
        "cache" => Role::Cache,
        "spares" => Role::Spare,
        "special" => Role::Special,
        "dedup" => Role::Dedup,
        _ => return None,
    })
}

/// `<blanks><name> <state> <read> <write> <cksum> <note>`; spares have no numbers.
fn vdev(line: &str, role: Role) -> Option<Vdev> {
    let blanks = line.len() - line.trim_start_matches(' ').len();
    let words: Vec<_> = line.split_whitespace().collect();
    // Names are paths and may hold blanks: the state ends them.
    let (at, state) = words
        .iter()
        .enumerate()
        .skip(1)
        .find_map(|(at, word)| Some((at, State::parse(word)?)))?;
    let rest = words.get(at + 1..).unwrap_or_default();
    let numbers: Vec<_> = rest
        .iter()
        .map_while(|word| rounded(word))
        .take(3)
        .collect();
    let number = |at: usize| numbers.get(at).copied().unwrap_or(0);
    Some(Vdev {
        name: words.get(..at).unwrap_or_default().join(" "),
        depth: blanks / 2,
        role,
        state,
        read_errors: number(0),
        write_errors: number(1),
        checksum_errors: number(2),
        note: rest.get(numbers.len()..).unwrap_or_default().join(" "),
    })
}

/// `No known data errors`, `2 data errors, use '-v' for a list`, or that a list follows.
fn data_errors(text: &str) -> DataErrors {
    if text.starts_with("No known data errors") {
        return DataErrors::None;
    }
    let mut words = text.split_whitespace();
    match (words.next().and_then(rounded), words.next()) {
        (Some(count), Some("data")) => DataErrors::Some(count),
        _ => DataErrors::Unknown,
    }
}

#[cfg(test)]
mod tests;
