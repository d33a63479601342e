//! What can go wrong, drawn one at a time.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use types::{Duration, MemberId};

use crate::network::Weather;

/// Something that goes wrong now, and for how long.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Fault {
    /// The network gets better or worse.
    Weather(Weather),
    /// One direction between two servers is cut.
    Cut(MemberId, MemberId, Duration),
    /// A server is cut off from all others: outgoing, incoming.
    Isolate(MemberId, (bool, bool), Duration),
    /// The process is stopped; its clock goes on.
    Pause(MemberId, Duration),
    /// Processes die and forget what was not durable. `true`: the clock starts anew, too.
    Crash(Vec<MemberId>, Duration, bool),
    /// A process is stopped in order, after giving its leases back or not.
    Stop(MemberId, Duration, bool),
    /// The clock's rate changes, in parts per million.
    Drift(MemberId, i64),
    /// The members of a cell change; if `true`, because the member that has to go is cut off from
    /// most others.
    ChangeView(bool),
}

/// Draws a fault for a cluster of `servers`.
pub fn draw(rng: &mut ChaCha8Rng, servers: &[MemberId], drift_ppm: u32) -> Fault {
    let one = servers[rng.random_range(0..servers.len())];
    let other = servers[rng.random_range(0..servers.len())];
    // Up to three times a lease: shorter, about as long, longer.
    let length = Duration::from_millis(rng.random_range(20..4500));
    match rng.random_range(0..100) {
        0..15 => Fault::Weather(Weather::draw(rng)),
        15..30 => Fault::Cut(one, other, length),
        30..50 => {
            let ways = [(true, true), (true, false), (false, true)];
            Fault::Isolate(one, ways[rng.random_range(0..ways.len())], length)
        }
        50..63 => Fault::Pause(one, length),
        63..73 => Fault::Crash(vec![one], short(rng), rng.random()),
        73..78 => Fault::Crash(most(rng, servers), short(rng), rng.random()),
        78..85 => Fault::Stop(one, short(rng), rng.random()),
        85..92 => Fault::Drift(one, drift(rng, drift_ppm)),
        _ => Fault::ChangeView(rng.random()),
    }
}

/// Draws the error of a clock, often the largest one.
pub fn drift(rng: &mut ChaCha8Rng, drift_ppm: u32) -> i64 {
    let limit = i64::from(drift_ppm);
    match rng.random_range(0..3) {
        0 => limit,
        1 => -limit,
        _ => rng.random_range(-limit..=limit),
    }
}

/// A process is often back at once.
fn short(rng: &mut ChaCha8Rng) -> Duration {
    Duration::from_millis([1, 50, 500, 3000][rng.random_range(0..4)])
}

/// A majority of the servers, or all.
fn most(rng: &mut ChaCha8Rng, servers: &[MemberId]) -> Vec<MemberId> {
    let spared = rng.random_range(0..servers.len().div_ceil(2));
    let first = rng.random_range(0..servers.len());
    let rotated = servers.iter().cycle().skip(first);
    rotated.take(servers.len() - spared).copied().collect()
}
