//! Reading ahead, one rule at a time.

use super::*;
use crate::changes::Changes;
use crate::config::ChangeLimits;
use crate::route::Route;
use types::Duration;

const NOW: Instant = Instant::from_nanos(1_000_000_000_000);

fn limits() -> ReadAheadLimits {
    ReadAheadLimits {
        window_bytes: 100,
        windows_max: 4,
        age_max: Duration::from_millis(100),
    }
}

/// A version that lasts.
fn settled() -> Option<Version> {
    Changes::new(Route::new(Vec::new()), ChangeLimits::default(), None).settled_version()
}

fn file(length: u64) -> Vec<u8> {
    (0..length).map(|at| (at % 251) as u8).collect()
}

fn fetch_all(ahead: &mut ReadAhead, content: &[u8], now: Instant) -> usize {
    let fetches = ahead.plan(now, settled(), content.len() as u64);
    for fetch in &fetches {
        let from = (fetch.offset as usize).min(content.len());
        let to = ((fetch.offset + fetch.length) as usize).min(content.len());
        ahead.fetched(*fetch, Some(Bytes::copy_from_slice(&content[from..to])));
    }
    fetches.len()
}

/// Reads like a program; returns the bytes and how many reads asked the primary.
fn read_through(ahead: &mut ReadAhead, content: &[u8], step: u64) -> (Vec<u8>, usize) {
    let mut got = Vec::new();
    let mut misses = 0;
    loop {
        let offset = got.len() as u64;
        let bytes = match ahead.read(NOW, settled(), offset, step) {
            Served::Bytes(bytes) => bytes,
            Served::Wait(_) => unreachable!("everything is fetched at once"),
            Served::Miss => {
                misses += 1;
                let from = got.len().min(content.len());
                let to = (from + step as usize).min(content.len());
                ahead.missed(NOW, settled(), offset, step, (to - from) as u64);
                Bytes::copy_from_slice(&content[from..to])
            }
        };
        if bytes.is_empty() {
            return (got, misses);
        }
        got.extend_from_slice(&bytes);
        fetch_all(ahead, content, NOW);
    }
}

#[test]
fn program_that_reads_on_gets_every_byte_and_rarely_waits() {
    for (length, step) in [(1000, 10), (1000, 30), (999, 64), (1001, 100), (1000, 250)] {
        let content = file(length);
        let mut ahead = ReadAhead::new(limits());

        let (got, misses) = read_through(&mut ahead, &content, step);

        assert_eq!(got, content, "length {length} step {step}");
        if step <= 100 {
            assert!(misses <= 3, "length {length} step {step}: {misses} misses");
        }
    }
}

#[test]
fn small_file_costs_one_request_although_programs_read_until_nothing_comes() {
    let content = file(40);

    let (got, misses) = read_through(&mut ReadAhead::new(limits()), &content, 64);

    assert_eq!(got, content);
    assert_eq!(misses, 1);
}

#[test]
fn end_is_told_from_memory_once_only() {
    let mut ahead = ReadAhead::new(limits());
    ahead.missed(NOW, settled(), 0, 64, 10);

    assert_eq!(
        ahead.read(NOW, settled(), 10, 64),
        Served::Bytes(Bytes::new())
    );
    assert_eq!(ahead.read(NOW, settled(), 10, 64), Served::Miss);
}

#[test]
fn bytes_that_are_too_old_are_not_handed_out() {
    let content = file(1000);
    let mut ahead = ReadAhead::new(limits());
    ahead.missed(NOW, settled(), 0, 10, 10);
    ahead.missed(NOW, settled(), 10, 10, 10);
    assert!(fetch_all(&mut ahead, &content, NOW) > 0);

    let late = NOW + Duration::from_millis(101);

    assert_eq!(ahead.read(late, settled(), 20, 10), Served::Miss);
}

#[test]
fn bytes_are_not_handed_out_to_a_read_that_goes_back() {
    let content = file(1000);
    let mut ahead = ReadAhead::new(limits());
    ahead.missed(NOW, settled(), 0, 10, 10);
    ahead.missed(NOW, settled(), 10, 10, 10);
    fetch_all(&mut ahead, &content, NOW);
    assert!(matches!(
        ahead.read(NOW, settled(), 20, 10),
        Served::Bytes(_)
    ));

    assert_eq!(ahead.read(NOW, settled(), 20, 10), Served::Miss);
    assert_eq!(ahead.read(NOW, settled(), 30, 10), Served::Miss);
}

#[test]
fn depth_grows_to_its_limit_and_not_beyond_the_file() {
    let mut ahead = ReadAhead::new(limits());
    for step in 0..3 {
        ahead.missed(NOW, settled(), step * 10, 10, 10);
    }

    assert_eq!(ahead.plan(NOW, settled(), 10_000).len(), 2);
    assert_eq!(ahead.plan(NOW, settled(), 10_000).len(), 0);
    for step in 3..9 {
        ahead.missed(NOW, settled(), step * 10, 10, 10);
    }
    assert_eq!(ahead.plan(NOW, settled(), 10_000).len(), 2);

    let mut small = ReadAhead::new(limits());
    for step in 0..9 {
        small.missed(NOW, settled(), step * 10, 10, 10);
    }
    assert_eq!(small.plan(NOW, settled(), 120).len(), 2);
}
