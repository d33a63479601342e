//! Looking into the object servers' directories: are the replicas of every object identical?

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::program::{binary, run};

/// Compares all replicas of all objects of stopped or idle object servers.
///
/// Returns one line per difference, beginning with `VOLUME/INODE.COLUMN`; none if every object is on
/// every server with the same bytes. One without any byte is as good as absent: a replica that was
/// never needed has not made its file.
///
/// # Errors
///
/// If a store can't be read.
pub fn replicas_differ(stores: &[PathBuf]) -> Result<Vec<String>> {
    let stores: Vec<(u64, PathBuf)> = (0..).zip(stores.iter().cloned()).collect();
    let all: Vec<u64> = stores.iter().map(|(osd, _)| *osd).collect();
    members_differ(&stores, |_| all.clone())
}

/// The same if each placement group is on some of the servers only, which `members` names by number.
/// What others still have of it does not count.
///
/// # Errors
///
/// If a store can't be read.
pub fn members_differ(
    stores: &[(u64, PathBuf)],
    members: impl Fn(u64) -> Vec<u64>,
) -> Result<Vec<String>> {
    let mut seen: BTreeMap<(String, u64), BTreeMap<String, Vec<u64>>> = BTreeMap::new();
    for (osd, store) in stores {
        for sum in sums(store)? {
            if members(sum.pg).contains(osd) {
                let copies = seen.entry((sum.object, sum.pg)).or_default();
                copies.entry(sum.bytes).or_default().push(*osd);
            }
        }
    }
    let mut differences = Vec::new();
    for ((object, pg), sums) in seen {
        let holders: usize = sums.values().map(Vec::len).sum();
        let wanted = members(pg);
        let wanted = stores
            .iter()
            .filter(|(osd, _)| wanted.contains(osd))
            .count();
        let is_empty = sums.keys().all(|sum| sum.starts_with("0 "));
        if !is_empty && (sums.len() != 1 || holders != wanted) {
            differences.push(format!("{object}: {sums:?}"));
        }
    }
    Ok(differences)
}

/// One object in a store.
struct Sum {
    object: String,
    /// Length and checksum.
    bytes: String,
    pg: u64,
}

/// What `oxfs store-sums` prints, as lines `OBJECT LENGTH SUM PG`.
fn sums(store: &Path) -> Result<Vec<Sum>> {
    let program = binary("oxfs")?.display().to_string();
    let text = run(
        store,
        &program,
        &["store-sums", &store.display().to_string()],
    )?;
    let sum = |line: &str| {
        let (object, rest) = line.split_once(' ')?;
        let (bytes, pg) = rest.rsplit_once(' ')?;
        Some(Sum {
            object: object.to_owned(),
            bytes: bytes.to_owned(),
            pg: pg.parse().ok()?,
        })
    };
    let lines = text.lines();
    lines
        .map(|line| sum(line).with_context(|| format!("`oxfs store-sums` printed {line:?}")))
        .collect()
}
