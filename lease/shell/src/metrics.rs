//! A lease host in numbers.

use shell::metrics::Metric;

use crate::LeaseShell;

/// Everything countable about a host and its wire.
#[must_use]
pub fn metrics(leases: &LeaseShell) -> Vec<Metric> {
    let stats = leases.stats();
    let traffic = leases.traffic();
    let quarantine = leases.quarantine_remaining();
    let counters = stats.counters;
    let ended = |what, value| Metric::counter(ENDED, ENDED_HELP, value).with("how", what);
    let failed = |reason, value| Metric::counter(FAILED, FAILED_HELP, value).with("reason", reason);
    let refused =
        |reason, value| Metric::counter(REFUSED, REFUSED_HELP, value).with("reason", reason);
    let dropped =
        |reason, value| Metric::counter(DROPPED, DROPPED_HELP, value).with("reason", reason);
    let bad =
        |reason, value| Metric::counter(BAD_FRAMES, BAD_FRAMES_HELP, value).with("reason", reason);
    vec![
        Metric::gauge("oxfs_lease_held", "Leases held by this server", stats.held),
        Metric::gauge(
            "oxfs_lease_cells",
            "Lease cells in memory, own and foreign",
            stats.cells as u64,
        ),
        Metric::gauge(
            "oxfs_lease_cells_max",
            "Most lease cells that may be in memory",
            stats.cells_max as u64,
        ),
        Metric::gauge(
            "oxfs_lease_quarantine_ms",
            "Time in ms for which this server still keeps silent because it forgot its votes",
            quarantine.map_or(0, types::Duration::as_millis),
        ),
        Metric::counter(
            "oxfs_lease_acquired",
            "Leases gained, extensions not counted",
            counters.gained,
        ),
        Metric::counter(
            "oxfs_lease_acquired_new",
            "Leases of new objects gained in one round trip",
            counters.shortcuts,
        ),
        Metric::counter(
            "oxfs_lease_renewals",
            "Extensions of held leases",
            counters.renewals,
        ),
        Metric::counter(
            "oxfs_lease_renewals_withheld",
            "Extensions not asked for because the lease's user showed no sign of life",
            traffic.renewals_withheld,
        ),
        ended("released", counters.released - counters.handed_over),
        ended("handed_over", counters.handed_over),
        ended("lost", counters.lost),
        failed("held_by_other", counters.held_by_others),
        failed("no_quorum", counters.no_quorum),
        failed("higher_ballot", counters.preempted),
        failed("too_slow", counters.too_slow),
        refused("held", counters.refused_held),
        refused("ballot", counters.refused_ballot),
        refused("epoch", counters.refused_epoch),
        refused("old_view", counters.old_views),
        dropped("quarantine", counters.quarantined),
        dropped("malformed", counters.malformed),
        dropped("unbelievable", traffic.messages_refused),
        dropped("cells_full", counters.cells_full),
        bad("broken", traffic.frames_broken),
        bad("overfull", traffic.frames_overfull),
        Metric::counter(
            "oxfs_lease_frames_sent",
            "Frames of lease messages sent",
            traffic.frames_sent,
        ),
        Metric::counter(
            "oxfs_lease_frames_received",
            "Frames of lease messages received",
            traffic.frames_received,
        ),
        Metric::counter(
            "oxfs_lease_frames_unsent",
            "Frames that no connection took",
            traffic.frames_dropped,
        ),
        Metric::counter(
            "oxfs_lease_messages_sent",
            "Lease messages sent",
            traffic.messages_sent,
        ),
        Metric::counter(
            "oxfs_lease_messages_received",
            "Lease messages received",
            traffic.messages_received,
        ),
        Metric::counter(
            "oxfs_lease_sent_bytes",
            "Bytes of the frames sent",
            traffic.bytes_sent,
        ),
    ]
}

const ENDED: &str = "oxfs_lease_ended";
const ENDED_HELP: &str = "Leases that this server held and does not any more";
const FAILED: &str = "oxfs_lease_attempts_failed";
const FAILED_HELP: &str = "Attempts of this server to get a lease that failed";
const REFUSED: &str = "oxfs_lease_votes_refused";
const REFUSED_HELP: &str = "Questions for a lease that this server answered with no";
const DROPPED: &str = "oxfs_lease_messages_dropped";
const DROPPED_HELP: &str = "Lease messages that were not looked at";
const BAD_FRAMES: &str = "oxfs_lease_bad_frames";
const BAD_FRAMES_HELP: &str = "Lease frames that were dropped as a whole";
