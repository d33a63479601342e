//! Limits of the metadata core, each with its unit and its reason.
//!
//! They are part of what a log entry means: every server must apply with the same values, so they
//! are constants and not settings.

/// Slots of a session. 64: FUSE keeps at most some dozens of requests of one mount waiting, and 64
/// stored replies of some 100 bytes keep a session below 8 KiB.
pub const SLOT_COUNT: u32 = 64;

/// Closed files that a leader remembers of each session, so that a late copy of an Open is known as one.
/// 1,024: what a mount closes while a request is repeated, some seconds; 40 KiB a session.
pub const RELEASES_MAX: usize = 1_024;

/// Bytes of a name. 255: NAME_MAX of Linux.
pub const NAME_BYTES_MAX: usize = 255;

/// Bytes of a symbolic link's target. 4095: PATH_MAX of Linux less the terminating zero.
pub const TARGET_BYTES_MAX: usize = 4095;

/// Links of a file that is no directory. 65000: what ext4 allows, so programs have met it.
pub const LINKS_MAX: u32 = 65_000;

/// Bytes of an xattr's name. 255: XATTR_NAME_MAX of Linux.
pub const XATTR_NAME_BYTES_MAX: usize = 255;

/// Bytes of an xattr's value. 64 KiB: XATTR_SIZE_MAX of Linux.
pub const XATTR_VALUE_BYTES_MAX: usize = 64 << 10;

/// Bytes of all xattr names of an inode, terminating zeros included. 64 KiB: XATTR_LIST_MAX of
/// Linux; with more, listxattr(2) could not answer.
pub const XATTR_NAMES_BYTES_MAX: u64 = 64 << 10;

/// Bytes of all xattr values of an inode. 1 MiB: removing an inode must stay one small batch.
pub const XATTR_VALUES_BYTES_MAX: u64 = 1 << 20;

pub use types::FILE_BYTES_MAX;

/// What stat(2) says of a directory's size, in bytes. 4096: one block, as ext4 says of a small one.
pub const DIRECTORY_BYTES: u64 = 4096;

/// Parents followed when a directory moves, to see that it does not move into itself. 65536 levels:
/// beyond any real tree; it bounds the loop should the index ever hold a cycle.
pub const PARENT_WALK_MAX: usize = 65_536;

/// Entries of one directory page. 4096: more than the 1,000 one round trip should bring.
pub const PAGE_ENTRIES_MAX: usize = 4096;

/// Bytes of names and attributes of one directory page. 512 KiB: a tenth of a second of nothing
/// else on a slow link, and far below the largest message.
pub const PAGE_BYTES_MAX: usize = 512 << 10;

/// Volumes of a cluster. 1024: they are listed whole and found by name by looking at each.
pub const VOLUMES_MAX: usize = 1024;

/// Bytes of a volume's name. 64: it stands in addresses and tables.
pub const VOLUME_NAME_BYTES_MAX: usize = 64;

/// Placement groups of a volume. 4096: the map of all groups travels whole to every object server.
pub const PGS_MAX: u32 = 4096;

/// Placement groups of a cluster. 32,768: at 60 bytes for each in the map, and as many in a server's
/// report, both stay below 2 MiB, far from the largest message of 5 MiB.
pub const PGS_TOTAL_MAX: u32 = 32_768;

/// Deletions of volumes that are recognised when they are repeated. 16: an administrator's tool
/// repeats one within seconds.
pub const DELETIONS_KNOWN_MAX: usize = 16;

/// Placement groups of a volume unless it says otherwise. 32: enough to spread over ten servers.
pub const PGS_DEFAULT: u32 = 32;

/// Replicas of a placement group. 7: a majority of 4; beyond it each write costs more than it saves.
pub const REPLICAS_MAX: u32 = 7;

/// Replicas unless the volume says otherwise, if there are as many object servers. 3: one may die.
pub const REPLICAS_DEFAULT: u32 = 3;

/// Object servers of a cluster. 1024: the "few hundred servers" this is made for, with room.
pub const OSDS_MAX: usize = 1024;

/// Sessions of a cluster, the ended ones that are not settled yet included. 16384: some tens of
/// mounts on each of a few hundred machines.
pub const SESSIONS_MAX: u64 = 16_384;

/// How long the answers of an expired session are kept, in nanoseconds. 1 h: a machine that was
/// suspended or cut off for longer rarely had a change under way.
pub const ANSWERS_KEPT_NS: i64 = 3_600_000_000_000;

/// Expired sessions whose answers are kept. 1024: at most 8 MiB of the index.
pub const ANSWERS_KEPT_MAX: usize = 1024;

/// Bytes of one text a mount or server says of itself (host, directory). 4096: PATH_MAX.
pub const TEXT_BYTES_MAX: usize = 4096;

/// Inodes of one Reap. 256: its garbage record stays below 8 KiB and its batch far below 1 MiB.
pub const REAP_INODES_MAX: usize = 256;

/// Garbage records of one Collected. 1024: one page of the janitor.
pub const COLLECTED_SEQS_MAX: usize = 1024;

/// Objects of one FindLeftovers. 1000: a few milliseconds of the leader's time.
pub const HELD_OBJECTS_MAX: usize = 1000;

/// Objects of one DiscardLeftovers. 256: as many as one Reap leaves at most.
pub const LEFTOVERS_MAX: usize = 256;

/// Records removed by one VolumePurge. 1024: some milliseconds of one server's time.
pub const PURGE_RECORDS_MAX: usize = 1024;

/// Entries the janitor gets at once. 1024: a page fits one command or one message.
pub const JANITOR_PAGE_MAX: usize = 1024;

/// Problems that a check reports before it stops looking. 1000: nobody reads more.
pub const PROBLEMS_MAX: usize = 1000;

/// Least limit of what is sent to bring copies up, in bytes per second. 1 MiB: below it a terabyte takes
/// weeks, in which further servers die; pausing is another command.
pub const REPAIR_BYTES_PER_S_MIN: u64 = 1 << 20;

/// Greatest limit of what is sent to bring copies up, in bytes per second. 1 TiB: no limit for any network.
pub const REPAIR_BYTES_PER_S_MAX: u64 = 1 << 40;

/// Numbers of inodes that a restore skips in each volume, for those given out after the dump. 2^40: a
/// hundred thousand files a second for 127 days, and there is room for millions of restores.
pub const INODES_SKIPPED: u64 = 1 << 40;

/// Numbers of volumes that a restore skips. 2^20: more than any cluster makes, and there is room for half a
/// million restores.
pub const VOLUMES_SKIPPED: u64 = 1 << 20;

/// Numbers of sessions that a restore skips, so that a mount of before is nobody. 2^40: as of inodes; it is
/// also more than any number of a volume.
pub const SESSIONS_SKIPPED: u64 = 1 << 40;

/// Numbers of records of garbage that a restore skips. 2^40: as of inodes.
pub const GARBAGE_SKIPPED: u64 = 1 << 40;

/// Versions of the map, and views of each placement group, that a restore skips beyond the newest it knows.
/// 2^32: a thousand changes a second for 49 days that no object server asked has heard of.
pub const VERSIONS_SKIPPED: u64 = 1 << 32;

/// Numbers of volumes end below this. 2^40: what a lease cell's name has room for.
pub const VOLUME_NUMBER_MAX: u64 = 1 << 40;
