//! Looking into the object servers' directories: are the replicas of every object identical?

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Result;

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
    let mut seen: BTreeMap<String, BTreeMap<String, Vec<usize>>> = BTreeMap::new();
    for (number, store) in stores.iter().enumerate() {
        for (object, sum) in sums(store)? {
            seen.entry(object)
                .or_default()
                .entry(sum)
                .or_default()
                .push(number);
        }
    }
    let mut differences = Vec::new();
    for (object, sums) in seen {
        let holders: usize = sums.values().map(Vec::len).sum();
        let is_empty = sums.keys().all(|sum| sum.starts_with("0 "));
        if !is_empty && (sums.len() != 1 || holders != stores.len()) {
            differences.push(format!("{object}: {sums:?}"));
        }
    }
    Ok(differences)
}

/// `OBJECT LENGTH SUM` lines of a store, as `oxfs store sums` prints them.
fn sums(store: &Path) -> Result<Vec<(String, String)>> {
    let program = binary("oxfs")?.display().to_string();
    let text = run(
        store,
        &program,
        &["store-sums", &store.display().to_string()],
    )?;
    Ok(text
        .lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(object, rest)| (object.to_owned(), rest.to_owned()))
        .collect())
}
