//! Limits of everything in an object server that waits or grows.

use types::Duration;

/// Tables of sums an object may keep in memory. 1024 of 4 KiB: 4 GiB of a file at a time.
pub(crate) const TABLES_MAX: usize = 1024;
/// Blocks of an object that are known not to fit their sums after the machine went down. 65,536: 256 MiB
/// changed between a note and its way to the disk; of more, reads find the rest.
pub(crate) const UNFIT_MAX: usize = 65_536;
/// Descriptors of object files open at once, per shard. 1024: four shards stay well below the usual
/// limit of a service once it is raised, and reopening costs a few microseconds.
pub(crate) const DESCRIPTORS_MAX: usize = 1024;

/// Part of the file system that new data leaves free, in percent: records, checksums, directories, the
/// journal's metadata and the count of starts always find space in it. 5: that is 2 MB of a disk of 48 MB, which a few
/// hundred directories and extents fit into.
pub(crate) const RESERVE_PERCENT: u64 = 5;
/// And that part at most. 64 MiB: more than what metadata servers on the same file system write between
/// two looks, so that data is refused before the cluster's metadata is.
pub(crate) const RESERVE_BYTES_MAX: u64 = 64 << 20;
/// Room below which other replicas are told that there is none. 1 MiB: the largest write of a mount.
pub(crate) const FULL_BYTES: u64 = 1 << 20;
/// Inodes left free, at most. 64: new files of the servers on the file system, such as logs.
pub(crate) const RESERVE_INODES_MAX: u64 = 64;
/// How long what a look at the file system has granted may be used. 100 ms: others fill it, too, and in that
/// time metadata servers write less than the reserve.
pub(crate) const ROOM_INTERVAL: std::time::Duration = std::time::Duration::from_millis(100);
/// Servers that may take room of one file system between two looks without touching the reserve. 8: more
/// than one machine runs; each look grants a part in so many of what is left.
pub(crate) const ROOM_SHARES: u64 = 8;
/// Bytes that a new object takes: its header, and a directory or two above it.
pub(crate) const CREATE_BYTES: u64 = 3 * types::BLOCK_BYTES;

/// Bytes of zeros written at once where a hole can't be made. 1 MiB: as the largest write of a mount.
pub(crate) const ZEROS_BYTES: usize = 1 << 20;

/// Time between two looks at the pool of a store on ZFS. 5 s: each runs two commands, and a pool that failed
/// is noticed by the next write anyway.
pub(crate) const POOL_LOOK: std::time::Duration = std::time::Duration::from_secs(5);
/// Age of the newest look at a pool from which on it counts as silent. 60 s: what a command that asks may take.
pub(crate) const POOL_SILENCE: std::time::Duration = std::time::Duration::from_secs(60);
/// Requests of one shard that wait for datasets. 8192: as many as may wait for the shard itself.
pub(crate) const PARKED_MAX: usize = 8192;

/// Bytes that the objects of a group must have on average for it to come as a whole. 64 KiB: with smaller ones, comparing
/// them takes longer than copying them would.
pub(crate) const SEED_OBJECT_BYTES_MIN: u64 = 64 << 10;

/// How long a stream of a group takes at least for one of what changed meanwhile to follow. 60 s: a snapshot, two
/// commands and a transaction group or two take seconds, and what changes in a minute is brought by the recovery.
pub(crate) const SEED_INCREMENT_AFTER: std::time::Duration = std::time::Duration::from_secs(60);

/// Looks at a file for the next data or hole; what is not found then counts as data. 256: each costs a
/// microsecond or two, and is needed for 4 MiB that have checksums but no data.
pub(crate) const SEEK_STEPS_MAX: usize = 256;

/// Addresses of metadata servers that are tried. 16: clusters have 1, 3 or 5 of them.
pub(crate) const MRC_ADDRESSES_MAX: usize = 16;
/// How long a primary may take to answer what another replica passed on to it. 10 s: longer than a
/// new primary needs to serve, shorter than mounts wait.
pub(crate) const FORWARD_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(10);

/// How long a metadata server may take to answer. 1 s: a frozen one is passed by before its lease
/// as leader ends.
pub(crate) const MRC_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(1);
/// Payload bytes of clients' requests that are not answered yet, on the whole server. 512 MiB: half a
/// second of a 10 Gbit/s network, and what a small server has to spare.
pub(crate) const REQUEST_BYTES_MAX: u64 = 512 << 20;
/// Requests that may wait for one shard. 8192: more than the objects of a busy shard have in flight,
/// each of them small.
pub(crate) const INBOX_ITEMS_MAX: usize = 8192;
/// Payload bytes that may wait for one shard. 64 MiB: a tenth of a second of copying.
pub(crate) const INBOX_BYTES_MAX: usize = 64 << 20;
/// Unanswered requests to one peer. 16,384: as many as clients may have in flight here.
pub(crate) const PEER_IN_FLIGHT_MAX: usize = 16_384;
/// Bytes queued for one peer. 64 MiB: one that falls further behind is treated as lost and brought
/// up later, instead of holding up the others.
pub(crate) const PEER_QUEUE_BYTES_MAX: usize = 64 << 20;
/// Waiting syncs that each go alone; with more, the whole file system is synced at once. 8: then two
/// syncs of everything cost less than sixteen of single files.
pub(crate) const SYNC_ALONE_MAX: usize = 8;
/// Replicas per shard beyond which idle ones are not kept. 10,000: some 20 MB.
pub(crate) const IDLE_REPLICAS_MAX: usize = 10_000;
/// Directories that are synced one by one after files in them were removed; with more, the whole file
/// system is synced at once. 16: as for single files.
pub(crate) const SYNC_DIRS_MAX: usize = 16;
/// How long a sync nobody waits for waits for company. 20 ms: objects that became idle together are
/// made clean together.
pub(crate) const LAZY_GATHER: std::time::Duration = std::time::Duration::from_millis(20);
/// Bytes per second sent to bring copies of others up while the metadata leader has not said how many. 32 MiB:
/// a quarter of a link of 1 Gbit/s, which leaves room for clients.
pub(crate) const REPAIR_BYTES_PER_S: u64 = 32 << 20;
/// What comparing a block of 64 KiB counts as, in bytes sent. 8 KiB: it is read on two servers, but hardly
/// anything is sent.
pub(crate) const COMPARE_COST_BYTES: u64 = 8 << 10;
/// Copies of groups that are held that are passed over in one look for others. 1024: some
/// microseconds.
pub(crate) const HELD_SKIPPED_MAX: usize = 1024;
/// Copies being brought up at a time. 32: each moves up to 2 MiB at a time, and clients want room.
pub(crate) const RECOVERIES_MAX: usize = 32;
/// Objects noted of which one other server lacks changes. 10,000: 2 MB; a server that was away for
/// longer is compared with, group by group.
pub(crate) const BEHIND_MAX: usize = 10_000;
/// How often it is looked whether a group is new here and has to be counted. 1 s: twice a heartbeat.
pub(crate) const COUNT_LOOK: std::time::Duration = std::time::Duration::from_secs(1);
/// Age of a count from which on it is made again. 6 h: what changed while it was made is wrong by as much
/// until then, and a million objects take some seconds of it.
pub(crate) const COUNT_AGAIN: std::time::Duration = std::time::Duration::from_secs(6 * 3600);
/// Counting waits for so many times as long as the last group took. 4: it takes a fifth of the time at most.
pub(crate) const COUNT_SHARE: u32 = 4;
/// Time between two attempts to bring up the replicas of an idle object. 500 ms: an attempt that finds
/// somebody else's lease costs a round trip.
pub(crate) const BRING_UP_PAUSE: Duration = Duration::from_millis(500);
/// Placement groups being compared at a time. 2: listing is disk work beside the clients'.
pub(crate) const COMPARES_MAX: usize = 2;
/// Objects in one page of a listing. 4096: about 200 KB.
pub(crate) const LIST_PAGE_MAX: usize = 4096;
/// Listings whose names are remembered. 1024: each of some peers lists a few groups at a time.
pub(crate) const LISTINGS_MAX: usize = 1024;
/// How long a page of a listing may take. 30 s: a cold disk reads 4096 headers.
pub(crate) const LIST_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(30);
/// How often recovery looks whether a silent member was waited for long enough.
pub(crate) const RECOVERY_LOOK: std::time::Duration = std::time::Duration::from_millis(500);
/// Pause before a round of leftovers when a placement group moved away, and before what it found is
/// reported. 5 s: groups move in numbers, and share the rounds.
pub(crate) const LEFTOVERS_SOON: std::time::Duration = std::time::Duration::from_secs(5);
/// Such rounds after the last group that moved. 4: found, reported, deleted, and once in vain.
pub(crate) const LEFTOVERS_SOON_ROUNDS: u32 = 4;
/// Copies of a group that moved away that are deleted at once. 1000: removed together, their names are made
/// stable together.
pub(crate) const MOVED_BATCH_MAX: usize = 1000;
/// Between two such batches there is a pause of so many times as long as the last one took. 1: deletions take
/// half of the time at most.
pub(crate) const MOVED_SHARE: u32 = 1;
/// How long such a batch may take. 1 min: files of many gigabytes take milliseconds each.
pub(crate) const MOVED_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(60);
/// A comparison of a group that has to be repeated waits for so many times as long as it took. 4: it takes
/// a fifth of the time at most.
pub(crate) const COMPARE_SHARE: u32 = 4;
/// Objects the metadata servers are asked about at once. 1000: what they take, 20 KB.
pub(crate) const LEFTOVERS_PAGE_MAX: usize = 1000;
/// Time between two such questions. 1 s: a round over ten million objects takes three hours, and a hundred
/// servers ask the leader for 100,000 records per second.
pub(crate) const LEFTOVERS_PAUSE: std::time::Duration = std::time::Duration::from_secs(1);
/// Leftovers remembered until the next round. 100,000: 2 MB; of more, later rounds find the rest.
pub(crate) const LEFTOVERS_MAX: usize = 100_000;
/// Leftovers in one request to have them deleted. 256: what the metadata servers take.
pub(crate) const LEFTOVERS_BATCH_MAX: usize = 256;
/// How long a deleted object is remembered. 10 minutes: longer than any request or catch-up.
pub(crate) const TOMBSTONE_TIME: Duration = Duration::from_secs(600);
/// Deleted objects remembered per shard. 100,000: 10 MB.
pub(crate) const TOMBSTONES_MAX: usize = 100_000;
/// Objects in one request to delete. 10,000: what the metadata cluster collects at once.
pub(crate) const DELETE_MAX: usize = 10_000;
/// Leases in one answer to an administrator. 10,000: about 400 KB.
pub(crate) const LEASE_LIST_MAX: usize = 10_000;
/// Objects with requests that wait, in one answer to an administrator. 1000: more than anybody reads.
pub(crate) const STALLS_MAX: usize = 1000;
/// Waiting that is not worth mention. 100 ms: a disk that is busy for a moment.
pub(crate) const STALL_NOTED: Duration = Duration::from_millis(100);
/// How long replicas may take to become clean when the server stops. 5 s: `oxfs down` waits 10.
pub(crate) const SHUTDOWN_TIME: std::time::Duration = std::time::Duration::from_secs(5);
/// Maps on their way from the metadata cluster. 4: only the newest counts.
pub(crate) const MAPS_MAX: usize = 4;
/// Members of a replica set. 31: what the lease protocol takes.
pub(crate) const PG_MEMBERS_MAX: usize = 31;

/// Time between looks at how far backups are behind. 500 ms: as often as it is reported.
pub(crate) const LAG_NOTE_INTERVAL: Duration = Duration::from_millis(500);

/// Lags in one report. 32,768: one of each placement group a cluster can have, 0.6 MiB.
pub(crate) const LAGS_REPORTED_MAX: usize = 32_768;

/// Blocks a scrub reads in one step. 256: 1 MiB, so that it never keeps a disk from others for more than some 10 ms.
pub(crate) const SCRUB_STEP_BLOCKS: u64 = 256;
/// What a scrub pays for an object at least, in bytes. 256 KiB: as long as a hard disk needs to find a file, at
/// the default rate, so that small files don't take the disk for themselves.
pub(crate) const SCRUB_OBJECT_BYTES_MIN: u64 = 256 << 10;
/// How long another server may take to answer a scrub. 10 s: it may be busy, and nobody waits.
pub(crate) const SCRUB_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(10);
/// How long other replicas are waited for before a copy is brought up without their answer. 1 s: longer than a busy disk
/// takes, and a frozen server does not hold up much.
pub(crate) const OUTVOTED_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(1);
/// Looks of other servers' scrubs at copies here, at a time. 4: each reads 64 KiB at most.
pub(crate) const INSPECTIONS_MAX: usize = 4;
/// Time between two attempts at what could not be repaired. 1 h: whoever could not be asked may be back.
pub(crate) const SCRUB_RETRY: Duration = Duration::from_secs(3600);
/// Time between two writes of a scrub's progress. 30 s: so much is read again after a restart.
pub(crate) const SCRUB_SAVE: Duration = Duration::from_secs(30);
/// Time between looks at whether a round is due, or a copy was brought up. 500 ms.
pub(crate) const SCRUB_LOOK: std::time::Duration = std::time::Duration::from_millis(500);
/// Wait before a server's first scrub, times its number (modulo 24). 1 h: servers that were set up together don't
/// scrub together.
pub(crate) const SCRUB_FIRST: Duration = Duration::from_secs(3600);
