//! What every adapter of the [`Index`] port must do; its tests call [`run`] and, if the adapter
//! keeps its entries on disk, [`reopen`].

use bytes::Bytes;

use crate::index::{Batch, Index, IndexError, Visit};
use crate::keys;

/// Makes the adapter under test: empty for [`run`], the same store again for [`reopen`].
pub type Make<'a> = dyn FnMut() -> Box<dyn Index> + 'a;

type Pairs = Vec<(Bytes, Bytes)>;

/// Runs the part of the contract that needs no restart, each check on a fresh, empty index.
///
/// # Errors
///
/// What the adapter returned.
///
/// # Panics
///
/// If the adapter breaks the contract.
pub fn run(make: &mut Make<'_>) -> Result<(), IndexError> {
    reads_what_was_put(&*make())?;
    later_change_of_a_batch_counts(&*make())?;
    scans_in_order_within_bounds(&*make())?;
    scan_stops_when_told(&*make())?;
    snapshot_does_not_move(&*make())?;
    install_replaces_everything(&*make())?;
    failed_install_is_not_taken_for_a_good_one(&*make())?;
    agrees_with_a_sorted_map(&*make())
}

/// Checks that flushed entries survive closing and opening the store again.
///
/// # Errors
///
/// What the adapter returned.
///
/// # Panics
///
/// If the adapter breaks the contract.
pub fn reopen(open: &mut Make<'_>) -> Result<(), IndexError> {
    let index = open();
    let mut batch = Batch::new();
    batch.put("kept", "1");
    batch.put("removed", "2");
    index.apply(batch)?;
    let mut batch = Batch::new();
    batch.delete("removed");
    index.apply(batch)?;
    index.flush()?;
    drop(index);

    let index = open();
    assert_eq!(all(&*index)?, pairs(&[("kept", "1")]));
    index.install(&mut pairs(&[("b", "2"), ("c", "3")]).into_iter().map(Ok))?;
    drop(index);

    let index = open();
    assert_eq!(all(&*index)?, pairs(&[("b", "2"), ("c", "3")]));
    Ok(())
}

fn reads_what_was_put(index: &dyn Index) -> Result<(), IndexError> {
    let mut batch = Batch::new();
    batch.put("key", "value");
    batch.put("empty", "");
    batch.put(&b"\x00\xff"[..], vec![7; 70_000]);
    index.apply(batch)?;

    assert_eq!(index.get(b"key")?, Some(Bytes::from("value")));
    assert_eq!(
        index.get(b"empty")?,
        Some(Bytes::new()),
        "empty is not absent"
    );
    assert_eq!(index.get(b"\x00\xff")?, Some(Bytes::from(vec![7; 70_000])));
    assert_eq!(index.get(b"ke")?, None);
    assert_eq!(index.get(b"keyy")?, None);

    let mut batch = Batch::new();
    batch.delete("key");
    batch.delete("never there");
    index.apply(batch)?;
    assert_eq!(index.get(b"key")?, None);
    index.apply(Batch::new())
}

fn later_change_of_a_batch_counts(index: &dyn Index) -> Result<(), IndexError> {
    let mut batch = Batch::new();
    batch.put("a", "1");
    batch.delete("a");
    batch.delete("b");
    batch.put("b", "2");
    batch.put("c", "3");
    batch.put("c", "4");
    index.apply(batch)?;

    assert_eq!(all(index)?, pairs(&[("b", "2"), ("c", "4")]));
    Ok(())
}

fn scans_in_order_within_bounds(index: &dyn Index) -> Result<(), IndexError> {
    let mut batch = Batch::new();
    for key in [&b"b"[..], b"a\xff", b"a", b"ab", b"a\x00", b"\xff"] {
        batch.put(Bytes::copy_from_slice(key), "");
    }
    index.apply(batch)?;

    assert_eq!(
        keys_between(index, b"a", b"b")?,
        [&b"a"[..], b"a\x00", b"ab", b"a\xff"]
    );
    assert_eq!(
        keys_between(index, b"a\x00", b"a\xff")?,
        [&b"a\x00"[..], b"ab"]
    );
    assert_eq!(
        keys_between(index, b"b", b"\xff\xff")?,
        [&b"b"[..], b"\xff"]
    );
    assert!(keys_between(index, b"b", b"b")?.is_empty());
    assert!(
        keys_between(index, b"c", b"b")?.is_empty(),
        "a range the wrong way round is empty"
    );
    Ok(())
}

fn scan_stops_when_told(index: &dyn Index) -> Result<(), IndexError> {
    let mut batch = Batch::new();
    for key in ["a", "b", "c"] {
        batch.put(key, "");
    }
    index.apply(batch)?;

    let mut seen = 0;
    index.scan(b"a", b"z", &mut |_, _| {
        seen += 1;
        if seen == 2 {
            Visit::Stop
        } else {
            Visit::Continue
        }
    })?;

    assert_eq!(seen, 2);
    Ok(())
}

fn snapshot_does_not_move(index: &dyn Index) -> Result<(), IndexError> {
    let mut batch = Batch::new();
    batch.put("a", "old");
    batch.put("b", "old");
    index.apply(batch)?;

    let mut snapshot = index.snapshot()?;
    let first = snapshot.next().transpose()?;
    let mut batch = Batch::new();
    batch.put("a", "new");
    batch.put("b", "new");
    batch.put("c", "new");
    index.apply(batch)?;
    let mut frozen: Pairs = first.into_iter().collect();
    for entry in snapshot {
        frozen.push(entry?);
    }

    assert_eq!(frozen, pairs(&[("a", "old"), ("b", "old")]));
    assert_eq!(index.get(b"b")?, Some(Bytes::from("new")));
    Ok(())
}

fn install_replaces_everything(index: &dyn Index) -> Result<(), IndexError> {
    let mut batch = Batch::new();
    batch.put("a", "old");
    batch.put("b", "old");
    index.apply(batch)?;

    // More than any adapter puts into one batch of its engine.
    let new: Pairs = (0..20_000_u32)
        .map(|n| (Bytes::from(format!("k{n:08}")), Bytes::from(n.to_string())))
        .collect();
    index.install(&mut new.clone().into_iter().map(Ok))?;

    assert_eq!(all(index)?, new);
    index.install(&mut std::iter::empty())?;
    assert_eq!(all(index)?, []);
    Ok(())
}

fn failed_install_is_not_taken_for_a_good_one(index: &dyn Index) -> Result<(), IndexError> {
    let mut batch = Batch::new();
    batch.put(keys::APPLIED, "5");
    batch.put("b", "old");
    index.apply(batch)?;
    let before = all(index)?;
    let mut broken = vec![
        Ok((Bytes::from_static(keys::APPLIED), Bytes::from("9"))),
        Ok((Bytes::from("b"), Bytes::from("new"))),
        Err(IndexError::engine("the checkpoint ended early")),
    ]
    .into_iter();

    assert!(index.install(&mut broken).is_err());
    // Either nothing happened, or nothing says how far the index is.
    if all(index)? != before {
        assert_eq!(index.get(keys::APPLIED)?, None);
    }
    index.install(&mut pairs(&[("a", "9"), ("c", "3")]).into_iter().map(Ok))?;
    assert_eq!(all(index)?, pairs(&[("a", "9"), ("c", "3")]));
    Ok(())
}

/// Random batches against the standard library's map.
fn agrees_with_a_sorted_map(index: &dyn Index) -> Result<(), IndexError> {
    let mut model = std::collections::BTreeMap::new();
    // A fixed linear congruential sequence (Knuth, MMIX): the same on every machine.
    let mut state = 1_u64;
    let mut draw = move |below: u64| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    for _ in 0..200 {
        let mut batch = Batch::new();
        for _ in 0..draw(20) {
            let key = Bytes::from(draw(300).to_string());
            if draw(3) == 0 {
                batch.delete(key.clone());
                model.remove(&key);
            } else {
                let value = Bytes::from(vec![b'v'; usize::try_from(draw(200)).unwrap_or(0)]);
                batch.put(key.clone(), value.clone());
                model.insert(key, value);
            }
        }
        index.apply(batch)?;
    }

    let expected: Pairs = model.into_iter().collect();
    assert_eq!(all(index)?, expected);
    let mut snapshot = Pairs::new();
    for entry in index.snapshot()? {
        snapshot.push(entry?);
    }
    assert_eq!(snapshot, expected);
    Ok(())
}

fn all(index: &dyn Index) -> Result<Pairs, IndexError> {
    let mut found = Vec::new();
    index.scan(b"", &[0xff; 9], &mut |key, value| {
        found.push((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)));
        Visit::Continue
    })?;
    Ok(found)
}

fn keys_between(index: &dyn Index, start: &[u8], end: &[u8]) -> Result<Vec<Vec<u8>>, IndexError> {
    let mut found = Vec::new();
    index.scan(start, end, &mut |key, _| {
        found.push(key.to_vec());
        Visit::Continue
    })?;
    Ok(found)
}

fn pairs(entries: &[(&'static str, &'static str)]) -> Pairs {
    entries
        .iter()
        .map(|(key, value)| (Bytes::from(*key), Bytes::from(*value)))
        .collect()
}
