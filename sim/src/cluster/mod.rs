//! The whole cluster in one thread: real replicas over modelled disks, real lease hosts, the real
//! metadata state machine behind a modelled log, and mounts that use the real routing and ordering
//! of changes.

mod acting;
mod content;
mod edit;
mod fate;
mod governing;
mod handle;
mod happening;
mod holding;
mod keeping;
mod map;
mod meta;
mod mount;
mod names;
mod options;
mod plan;
mod recovery;
mod server;
mod shell;
mod streams;
mod world;

use osd_core::ObjectStore as _;
use types::Duration;

pub use edit::Edit;
pub use options::Options;

use crate::time::TrueTime;
use world::World;

/// What runs went through.
#[derive(Clone, Copy, Debug, Default)]
pub struct Coverage {
    /// Requests of programs that were done.
    pub done: u64,
    /// The longest of them.
    pub longest: Duration,
    /// Files made.
    pub created: u64,
    /// Files removed, with their objects.
    pub removed: u64,
    /// Syncs acknowledged.
    pub syncs: u64,
    /// Mounts that were told of lost changes.
    pub told: u64,
    /// Crashes of one server.
    pub crashes: u64,
    /// Failures of the power everywhere.
    pub losses: u64,
    /// Servers stopped in good order.
    pub stops: u64,
    /// Pauses of a process or a thread.
    pub pauses: u64,
    /// Leaders of the metadata cluster that were deposed.
    pub deposed: u64,
    /// Changes of a deposed leader that were lost.
    pub lost: u64,
    /// Runs at whose end a server stayed away or ill.
    pub stayed: u64,
    /// Disks lost.
    pub wipes: u64,
    /// Changes of replica sets that ended.
    pub changed_sets: u64,
    /// Copies deleted because others keep them.
    pub moved: u64,
    /// Changes of the policy.
    pub policies: u64,
    /// Mounts cut off from the metadata cluster.
    pub stranded: u64,
    /// Sessions opened after others had ended.
    pub sessions: u64,
}

impl std::ops::AddAssign for Coverage {
    fn add_assign(&mut self, other: Self) {
        self.done += other.done;
        self.longest = self.longest.max(other.longest);
        self.created += other.created;
        self.removed += other.removed;
        self.syncs += other.syncs;
        self.told += other.told;
        self.crashes += other.crashes;
        self.losses += other.losses;
        self.stops += other.stops;
        self.pauses += other.pauses;
        self.deposed += other.deposed;
        self.lost += other.lost;
        self.stayed += other.stayed;
        self.wipes += other.wipes;
        self.changed_sets += other.changed_sets;
        self.moved += other.moved;
        self.policies += other.policies;
        self.stranded += other.stranded;
        self.sessions += other.sessions;
    }
}

/// How a run ended.
#[derive(Debug)]
pub struct Outcome {
    /// Of everything that happened.
    pub hash: u64,
    /// What was wrong first, if anything was.
    pub finding: Option<(TrueTime, String)>,
    /// What the run went through.
    pub coverage: Coverage,
    /// Lines to read, if the options asked for them.
    pub lines: Vec<String>,
}

/// Simulates one run.
#[must_use]
pub fn run(options: Options) -> Outcome {
    let (safety, answers, settling) = (options.safety, options.answers, options.settling);
    let mut world = World::new(options);
    let mut end = TrueTime::default() + safety;
    world.run_until(end);
    if world.finding.is_none() {
        world.calm_down();
        let last = end + answers;
        while world.finding.is_none() && !world.mounts.iter().all(mount::Mount::is_idle) {
            if end >= last {
                let mounts: Vec<_> = world.mounts.iter().map(mount::Mount::describe).collect();
                world.report(format!("not answered: {mounts:?}"));
            }
            end = end + Duration::from_millis(500);
            world.run_until(end);
        }
    }
    let last = end + settling;
    while world.finding.is_none()
        && let Err(wrong) = world.rested()
    {
        if end >= last {
            world.report(format!("not settled: {wrong}"));
        }
        end = end + Duration::from_secs(1);
        world.run_until(end);
    }
    if world.finding.is_none()
        && let Err(wrong) = world.end()
    {
        world.report(wrong);
    }
    let now = world.schedule.now();
    let plan = world.plan.clone();
    world.trace.tell(now, || format!("{plan:?}"));
    Outcome {
        hash: world.trace.hash(),
        finding: world.finding,
        coverage: world.coverage,
        lines: world.trace.into_lines(),
    }
}

impl World {
    /// Whether all copies are equal, trusted and clean, and nothing is left of files that are gone.
    fn rested(&mut self) -> Result<(), String> {
        let orphan = self.meta.names.files.iter();
        let orphan = orphan
            .copied()
            .find(|inode| !self.meta.names.is_linked(*inode));
        if let Some(inode) = orphan {
            return Err(format!("inode {inode} has no name and is not removed"));
        }
        let excluded = self.plan.excluded;
        let groups = self.groups_now();
        let changing = self
            .meta
            .pgs()
            .into_iter()
            .find(|pg| !pg.previous.is_empty());
        if let Some(pg) = changing.filter(|_| excluded.is_none()) {
            return Err(format!("the change of a set does not end: {pg:?}"));
        }
        self.nothing_left()?;
        let mut copies = std::collections::BTreeMap::new();
        for (group, members) in &groups {
            for osd in members.iter().filter(|osd| excluded != Some(**osd)) {
                let server = self.server(*osd);
                if excluded.is_none() && !server.trusted && !server.recovery.is_over() {
                    let state = server.recovery.describe();
                    return Err(format!("server {osd} has not recovered: {state}"));
                }
                let listed = server.store.list(*group, None, usize::MAX);
                for (object, header) in listed.unwrap_or_default() {
                    let key = osd_core::ObjectKey {
                        pg: group.pg,
                        object,
                    };
                    let inode = object.inode.0;
                    if !self.meta.names.files.contains(&inode) {
                        return Err(format!("server {osd} keeps {key} of a removed file"));
                    }
                    let bytes = self.server(*osd).store.bytes(key).unwrap_or_default();
                    // The only copy there is has nobody to be compared with before somebody opens it.
                    if !header.record.clean && excluded.is_none() && members.len() > 1 {
                        return Err(format!("server {osd} has {key} not clean"));
                    }
                    let known = copies.entry(key).or_insert_with(Vec::new);
                    known.push((*osd, bytes));
                }
            }
        }
        for (key, all) in copies {
            let members = self.members(key).into_iter();
            let members = members.filter(|osd| excluded != Some(*osd)).count();
            // What rots at rest is not looked at before somebody reads it there.
            let rotten = self
                .plan
                .ill
                .filter(|_| self.plan.ailment == plan::Ailment::Rots);
            let mut sound = all.iter().filter(|(osd, _)| rotten != Some(*osd));
            let first = sound.next().map(|(_, bytes)| bytes);
            let differ = sound.any(|(_, bytes)| Some(bytes) != first);
            let lengths: Vec<_> = all.iter().map(|(osd, bytes)| (*osd, bytes.len())).collect();
            // An ill server that others still reach may have been the only one to know who is behind.
            let known_to_ill = excluded.is_some() && excluded == self.plan.ill;
            // An object without bytes reads like none: who never heard of it is not behind.
            let empty = all.iter().all(|(_, bytes)| bytes.is_empty());
            if !known_to_ill && !empty && (all.len() != members || differ) {
                return Err(format!("copies of {key} differ: {lengths:?}"));
            }
        }
        Ok(())
    }

    /// Nobody keeps copies of what is others' to keep.
    fn nothing_left(&mut self) -> Result<(), String> {
        for (group, members) in self.groups_now() {
            for server in self.servers.iter_mut() {
                let listed = server.store.list(group, None, 1).unwrap_or_default();
                if !members.contains(&server.me) && !listed.is_empty() {
                    let osd = server.me;
                    return Err(format!("server {osd} keeps copies of group {group}"));
                }
            }
        }
        Ok(())
    }

    /// What must be true of everything in the end.
    fn end(&mut self) -> Result<(), String> {
        let keys: Vec<_> = self.keys.values().copied().collect();
        for key in keys {
            let inode = key.object.inode.0;
            if !self.meta.names.is_linked(inode) {
                continue;
            }
            let (excluded, ill) = (self.plan.excluded, self.plan.ill);
            let members = self.members(key).into_iter();
            let sound = members.filter(|osd| excluded != Some(*osd) && ill != Some(*osd));
            let newest = sound.max_by_key(|osd| {
                let slot = self.server(*osd).slots.get(&key.object);
                let here = slot.map(|slot| slot.replica.status().position);
                here.or_else(|| {
                    let header = self.server(*osd).store.open(key).ok().flatten();
                    header.map(|header| header.record.position)
                })
            });
            let Some(newest) = newest else { continue };
            let bytes = self.server(newest).store.bytes(key).unwrap_or_default();
            if let Some(content) = self.contents.get_mut(&inode) {
                content
                    .whole(&bytes)
                    .map_err(|wrong| format!("{key}: {wrong}"))?;
            }
        }
        self.meta.replay()
    }
}
