//! What a run is made of and what goes wrong in it, drawn from its seed.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use types::{Duration, OsdId, Policy, Quorum, WritePolicy};

use crate::cluster::options::Options;
use crate::network::percent;

/// What is wrong with the disk of one server.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Ailment {
    Nothing,
    /// Blocks change at rest, or were never written, or somewhere else: they do not fit their sums.
    Rots,
    /// There is no room left, now and then.
    Full,
    /// Syncs take longer than anybody waits, now and then.
    Hangs,
    /// A sync fails.
    Fails,
}

/// A run.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Nothing fails.
    pub(crate) fair: bool,
    pub(crate) servers: u64,
    pub(crate) replicas: u32,
    pub(crate) groups: u32,
    /// The volume's policy; with several, the first one first and then others by turns.
    pub(crate) policies: Vec<Policy>,
    pub(crate) ill: Option<OsdId>,
    pub(crate) ailment: Ailment,
    /// It is as bad as it gets, just now.
    pub(crate) is_acute: bool,
    pub(crate) crashes: bool,
    /// All replicas but one may crash: what is acknowledged by all survives that.
    pub(crate) beyond_majority: bool,
    /// Crashes may take the disk.
    pub(crate) wipes: bool,
    pub(crate) total_losses: bool,
    pub(crate) cuts: bool,
    pub(crate) pauses: bool,
    pub(crate) elections: bool,
    /// Replica sets change.
    pub(crate) moves: bool,
    /// Mounts are cut off for longer than their sessions live.
    pub(crate) sessions: bool,
    pub(crate) session_timeout: Duration,
    /// How long a capability is good for.
    pub(crate) right_lifetime: Duration,
    /// Longest time until something proposed is committed, in milliseconds.
    pub(crate) commit_max: u64,
    /// In the end one server does not come back.
    pub(crate) stays: bool,
    /// The one that did not.
    pub(crate) excluded: Option<OsdId>,
}

const fn policy(write: WritePolicy, quorum: Quorum) -> Policy {
    Policy { write, quorum }
}

/// Every policy, the strongest first.
const EVERY: [Policy; 6] = [
    policy(WritePolicy::Fullsync, Quorum::All),
    policy(WritePolicy::Fullsync, Quorum::Majority),
    policy(WritePolicy::Memsync, Quorum::All),
    policy(WritePolicy::Memsync, Quorum::Majority),
    policy(WritePolicy::Async, Quorum::All),
    policy(WritePolicy::Async, Quorum::Majority),
];

impl Plan {
    pub(crate) fn draw(rng: &mut ChaCha8Rng, options: &Options) -> Self {
        let fair = options.fair;
        let replicas: u32 = match rng.random_range(0..20) {
            0..=10 => 3,
            11..=13 => 5,
            _ => [1, 2, 2, 4, 6, 7][rng.random_range(0..6)],
        };
        let moves = percent(rng, 40);
        let spares: u32 = if moves {
            rng.random_range(1..=2)
        } else {
            rng.random_range(0..=1)
        };
        let servers = u64::from((replicas + spares).max(3));
        let policies = Self::draw_policies(rng);
        let majority = policies.iter().all(|one| one.quorum == Quorum::Majority);
        let usual = policies == [Policy::default()];
        let ailment = match rng.random_range(0..8) {
            0 => Ailment::Rots,
            1 if usual => Ailment::Full,
            2 if majority => Ailment::Hangs,
            3 if majority => Ailment::Fails,
            _ => Ailment::Nothing,
        };
        let ailment = match fair || moves || replicas < 3 {
            true => Ailment::Nothing,
            false => ailment,
        };
        let sick = OsdId(rng.random_range(1..=servers));
        let healthy = ailment == Ailment::Nothing && !fair;
        let sessions = percent(rng, 25);
        let kept = |one: &Policy| one.quorum == Quorum::All && one.write != WritePolicy::Async;
        let beyond = policies.iter().all(kept) && !moves && rng.random();
        let stays = !fair && percent(rng, 30);
        Self {
            fair,
            servers,
            replicas,
            groups: rng.random_range(1..=3),
            ill: (ailment != Ailment::Nothing).then_some(sick),
            ailment,
            is_acute: false,
            crashes: healthy && percent(rng, 75),
            beyond_majority: beyond && healthy,
            wipes: healthy && replicas > 2 && !beyond && percent(rng, 30),
            total_losses: (healthy || ailment == Ailment::Rots) && percent(rng, 35),
            cuts: !fair && percent(rng, 75),
            pauses: !fair && percent(rng, 75),
            elections: !fair && percent(rng, 75),
            moves,
            sessions: sessions && !fair,
            session_timeout: match sessions {
                true => Duration::from_millis(rng.random_range(1_500..6_000)),
                false => Duration::from_secs(30),
            },
            right_lifetime: match sessions {
                true => Duration::from_millis(rng.random_range(1_000..8_000)),
                false => Duration::from_secs(600),
            },
            commit_max: [2, 10, 100][rng.random_range(0..3)],
            // The others must be able to go on without it.
            stays: stays && majority && !moves && replicas > 2,
            excluded: None,
            policies,
        }
    }

    fn draw_policies(rng: &mut ChaCha8Rng) -> Vec<Policy> {
        match rng.random_range(0..20) {
            0..=7 => vec![Policy::default()],
            8..=15 => vec![EVERY[rng.random_range(0..EVERY.len())]],
            16 | 17 => EVERY.to_vec(),
            18 => EVERY[..4].to_vec(),
            _ => EVERY[..2].to_vec(),
        }
    }

    /// What is acknowledged may be lost although a majority survives; not if nothing fails.
    pub(crate) fn loses(&self) -> bool {
        let mut policies = self.policies.iter();
        !self.fair && policies.any(|one| one.write == WritePolicy::Async)
    }

    /// What is acknowledged survives the loss of power.
    pub(crate) fn is_stable(&self) -> bool {
        let mut policies = self.policies.iter();
        policies.all(|one| one.write == WritePolicy::Fullsync)
    }
}
