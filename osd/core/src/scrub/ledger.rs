//! What a scrub remembers across restarts: where its round is, when the next one begins, what it found.

use prost::Message as _;
use proto::osd::{Scrub, ScrubDamage, ScrubFinding, ScrubOutcome, ScrubRound};
use types::{Inode, ObjectId, PgId, PgKey, VolumeId};

use crate::config::SCRUB_FINDINGS_MAX;
use crate::store::ObjectKey;

/// Also says the format's version; fields may be added to the message behind it.
const MAGIC: [u8; 8] = *b"OXFSCRB1";

/// Bytes that are no ledger.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("scrub ledger of {length} bytes is malformed")]
pub struct LedgerError {
    /// Bytes found.
    pub length: usize,
}

/// Progress and findings. Times are milliseconds since 1970.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ledger(Scrub);

impl Ledger {
    /// As it is stored.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let body = self.0.encode_to_vec();
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&crc32c::crc32c(&body).to_le_bytes());
        bytes.extend_from_slice(&body);
        bytes
    }

    /// The inverse of [`Ledger::encode`].
    ///
    /// # Errors
    ///
    /// [`LedgerError`] if the bytes are damaged or of another version.
    pub fn decode(bytes: &[u8]) -> Result<Self, LedgerError> {
        Self::parse(bytes).ok_or(LedgerError {
            length: bytes.len(),
        })
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let (magic, rest) = bytes.split_first_chunk::<8>()?;
        let (crc, body) = rest.split_first_chunk::<4>()?;
        let sound = *magic == MAGIC && crc32c::crc32c(body) == u32::from_le_bytes(*crc);
        sound.then(|| Scrub::decode(body).ok()).flatten().map(Self)
    }

    /// What an administrator is told.
    #[must_use]
    pub fn view(&self) -> Scrub {
        self.0.clone()
    }

    /// Plans the next round, `interval_ms` after the last one began; 0: none. Of a server that has never
    /// scrubbed, the first begins after `first_ms` at most. A plan that lies further ahead is of a clock that was
    /// wrong, or of another interval.
    pub fn plan(&mut self, now_ms: i64, interval_ms: i64, first_ms: i64) {
        if interval_ms == 0 {
            self.0.next_ms = 0;
            return;
        }
        let latest = now_ms.saturating_add(interval_ms);
        let planned = match (self.0.next_ms, &self.0.last) {
            (0, None) => now_ms.saturating_add(first_ms.min(interval_ms)),
            (0, Some(last)) => last.began_ms.saturating_add(interval_ms),
            (next, _) => next,
        };
        self.0.next_ms = planned.clamp(1, latest);
    }

    /// Whether a round has to begin now.
    #[must_use]
    pub const fn is_due(&self, now_ms: i64) -> bool {
        self.0.next_ms != 0 && self.0.next_ms <= now_ms
    }

    /// Whether a round is under way.
    #[must_use]
    pub const fn is_running(&self) -> bool {
        self.0.present.is_some()
    }

    /// Begins a round, unless one is under way.
    pub fn begin(&mut self, now_ms: i64, interval_ms: i64) {
        if self.is_running() {
            return;
        }
        self.0.present = Some(ScrubRound {
            number: self.0.last.map_or(0, |last| last.number) + 1,
            began_ms: now_ms,
            ..ScrubRound::default()
        });
        self.0.next_ms = match interval_ms {
            0 => 0,
            _ => now_ms.saturating_add(interval_ms),
        };
        self.restart();
    }

    /// Ends the round.
    pub fn end(&mut self, now_ms: i64) {
        if let Some(round) = self.0.present.take() {
            self.0.last = Some(ScrubRound {
                ended_ms: now_ms,
                ..round
            });
        }
        self.restart();
    }

    const fn restart(&mut self) {
        self.0.at_volume = 0;
        self.0.at_pg = 0;
        self.0.at_object = None;
        self.0.in_object = None;
    }

    /// Whether a group was done in this round; of the one under way, up to which object.
    #[must_use]
    pub fn passed(&self, group: PgKey) -> Passed {
        let at = PgKey {
            volume: VolumeId(self.0.at_volume),
            pg: PgId(self.0.at_pg),
        };
        let begun = self.0.at_volume != 0;
        match (&self.0.at_object, begun) {
            (_, true) if group < at => Passed::All,
            (None, true) if group == at => Passed::All,
            (Some(object), true) if group == at => Passed::UpTo((*object).into()),
            _ => Passed::Nothing,
        }
    }

    /// An object is done, or with none all of the group.
    pub fn pass(&mut self, group: PgKey, object: Option<ObjectId>) {
        self.0.at_volume = group.volume.0;
        self.0.at_pg = group.pg.0;
        self.0.at_object = object.map(Into::into);
        self.0.in_object = None;
        if let (Some(round), Some(_)) = (self.0.present.as_mut(), object) {
            round.objects += 1;
        }
    }

    /// The blocks of an object before this one are done in the round under way.
    pub fn reach(&mut self, object: ObjectId, block: u64) {
        if self.is_running() {
            self.0.in_object = Some(object.into());
            self.0.in_block = block;
        }
    }

    /// The first block of an object that is not done.
    #[must_use]
    pub fn reached(&self, object: ObjectId) -> u64 {
        match self.0.in_object.map(ObjectId::from) {
            Some(known) if known == object && self.is_running() => self.0.in_block,
            Some(_) | None => 0,
        }
    }

    /// So much was read and verified.
    pub const fn count_bytes(&mut self, bytes: u64) {
        if let Some(round) = self.0.present.as_mut() {
            round.bytes += bytes;
        }
    }

    /// An object could not be compared with all replicas.
    pub const fn count_uncompared(&mut self) {
        if let Some(round) = self.0.present.as_mut() {
            round.uncompared += 1;
        }
    }

    /// Takes note of damage, or of what has become of it: for an object and a kind of damage the newest counts.
    pub fn note(&mut self, key: ObjectKey, damage: ScrubDamage, found: Found) {
        let known = self
            .0
            .findings
            .iter()
            .position(|finding| finding.damage() == damage && key_of(finding) == Some(key));
        let known = known.map(|at| self.0.findings.remove(at));
        self.0.findings.push(ScrubFinding {
            object: Some(key.object.into()),
            pg: key.pg.0,
            damage: damage.into(),
            outcome: found.outcome.into(),
            found_ms: match known {
                // What was repaired once and is found again is news.
                Some(known) if known.outcome() != ScrubOutcome::ScrubRepaired => known.found_ms,
                _ => found.now_ms,
            },
            blocks: found.blocks,
            repaired: found.repaired,
        });
        if self.0.findings.len() > SCRUB_FINDINGS_MAX {
            let repaired =
                |finding: &ScrubFinding| finding.outcome() == ScrubOutcome::ScrubRepaired;
            let oldest = self.0.findings.iter().position(repaired).unwrap_or(0);
            self.0.findings.remove(oldest);
            self.0.dropped += 1;
        }
    }

    /// Nothing of this kind is wrong with an object any more: it was repaired, by whomever.
    pub fn note_repaired(&mut self, key: ObjectKey, damage: ScrubDamage) {
        for finding in &mut self.0.findings {
            if finding.damage() == damage && key_of(finding) == Some(key) {
                finding.set_outcome(ScrubOutcome::ScrubRepaired);
                finding.repaired = finding.blocks;
            }
        }
    }

    /// Forgets what was found at objects that are gone.
    pub fn retain(&mut self, mut is_there: impl FnMut(ObjectKey) -> bool) {
        self.0
            .findings
            .retain(|finding| key_of(finding).is_some_and(&mut is_there));
    }

    /// The outcome that is noted of an object's damage.
    #[must_use]
    pub fn outcome(&self, key: ObjectKey, damage: ScrubDamage) -> Option<ScrubOutcome> {
        let mut findings = self.0.findings.iter();
        let found =
            findings.find(|finding| finding.damage() == damage && key_of(finding) == Some(key));
        found.map(ScrubFinding::outcome)
    }

    /// Objects with damage of this outcome.
    #[must_use]
    pub fn with(&self, outcome: ScrubOutcome) -> Vec<(ObjectKey, ScrubDamage)> {
        let findings = self.0.findings.iter();
        findings
            .filter(|finding| finding.outcome() == outcome)
            .filter_map(|finding| Some((key_of(finding)?, finding.damage())))
            .collect()
    }

    /// Objects that are damaged still.
    #[must_use]
    pub fn unrepaired(&self) -> Vec<ObjectKey> {
        let outcomes = [
            ScrubOutcome::ScrubNoGoodCopy,
            ScrubOutcome::ScrubUndecided,
            ScrubOutcome::ScrubLater,
        ];
        let found = outcomes.into_iter().flat_map(|outcome| self.with(outcome));
        let mut keys: Vec<_> = found.map(|(key, _)| key).collect();
        keys.sort_unstable();
        keys.dedup();
        keys
    }
}

/// What a look at an object found.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Found {
    /// What has become of it.
    pub outcome: ScrubOutcome,
    /// Milliseconds since 1970.
    pub now_ms: i64,
    /// Damaged blocks.
    pub blocks: u64,
    /// Of these, repaired ones.
    pub repaired: u64,
}

/// How far a group was scrubbed in this round.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Passed {
    /// Not at all.
    Nothing,
    /// Up to this object, itself included.
    UpTo(ObjectId),
    /// It is done.
    All,
}

fn key_of(finding: &ScrubFinding) -> Option<ObjectKey> {
    let object = finding.object?;
    Some(ObjectKey {
        pg: PgId(finding.pg),
        object: ObjectId {
            volume: VolumeId(object.volume),
            inode: Inode(object.inode),
            column: object.column,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const WEEK: i64 = 7 * 86_400_000;

    fn key(inode: u64) -> ObjectKey {
        ObjectKey {
            pg: PgId(2),
            object: ObjectId {
                volume: VolumeId(1),
                inode: Inode(inode),
                column: 0,
            },
        }
    }

    fn group(pg: u32) -> PgKey {
        PgKey {
            volume: VolumeId(1),
            pg: PgId(pg),
        }
    }

    fn found(outcome: ScrubOutcome, now_ms: i64) -> Found {
        Found {
            outcome,
            now_ms,
            blocks: 2,
            repaired: 1,
        }
    }

    #[test]
    fn round_goes_on_after_a_restart_where_it_was() {
        let mut ledger = Ledger::default();
        ledger.begin(1_000, WEEK);
        ledger.count_bytes(77);
        ledger.pass(group(1), None);
        ledger.pass(group(2), Some(key(5).object));
        ledger.reach(key(6).object, 512);
        ledger.note(
            key(5),
            ScrubDamage::ScrubBlocks,
            found(ScrubOutcome::ScrubRepaired, 1_500),
        );

        let mut again = Ledger::decode(&ledger.encode()).unwrap();

        assert_eq!(again, ledger);
        assert_eq!(again.passed(group(1)), Passed::All);
        assert_eq!(again.passed(group(2)), Passed::UpTo(key(5).object));
        assert_eq!(again.passed(group(3)), Passed::Nothing);
        assert_eq!(again.reached(key(6).object), 512);
        assert_eq!(again.reached(key(7).object), 0);
        again.begin(2_000, WEEK);
        assert_eq!(again.passed(group(1)), Passed::All, "one round at a time");
        again.end(3_000);
        let view = again.view();
        let last = view.last.unwrap();
        assert_eq!(
            (last.number, last.began_ms, last.ended_ms),
            (1, 1_000, 3_000)
        );
        assert_eq!((last.bytes, last.objects), (77, 1));
        assert_eq!(again.reached(key(6).object), 0);
        again.begin(4_000, WEEK);
        assert_eq!(again.passed(group(1)), Passed::Nothing);
        assert_eq!(again.view().present.unwrap().number, 2);
    }

    #[test]
    fn every_flipped_bit_of_a_ledger_is_noticed() {
        let mut ledger = Ledger::default();
        ledger.begin(1_000, WEEK);
        let sound = ledger.encode();
        for bit in 0..sound.len() * 8 {
            let mut flipped = sound.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(Ledger::decode(&flipped).is_err(), "{bit}");
        }
        assert!(Ledger::decode(b"").is_err());
    }

    #[test]
    fn rounds_begin_an_interval_apart_however_often_the_server_is_restarted() {
        let mut ledger = Ledger::default();
        ledger.plan(1_000, WEEK, 50);
        assert!(!ledger.is_due(1_049) && ledger.is_due(1_050));
        // A restart plans again, and may not put it off.
        ledger.plan(1_040, WEEK, 50);
        assert!(ledger.is_due(1_050));
        ledger.begin(1_050, WEEK);
        ledger.end(2_000);
        ledger.plan(2_000, WEEK, 50);
        assert!(!ledger.is_due(1_049 + WEEK) && ledger.is_due(1_050 + WEEK));

        // A clock that was years ahead, and a shorter interval.
        ledger.begin(900 * WEEK, WEEK);
        ledger.end(900 * WEEK);
        ledger.plan(5_000, WEEK, 50);
        assert!(ledger.is_due(5_000 + WEEK));
        ledger.plan(5_000, 0, 50);
        assert!(!ledger.is_due(i64::MAX), "only when asked");
    }

    #[test]
    fn newest_outcome_of_a_finding_counts_and_repaired_ones_make_room_first() {
        let mut ledger = Ledger::default();
        let damage = ScrubDamage::ScrubBlocks;
        ledger.note(key(1), damage, found(ScrubOutcome::ScrubLater, 10));
        ledger.note(key(2), damage, found(ScrubOutcome::ScrubRepaired, 11));
        ledger.note(key(1), damage, found(ScrubOutcome::ScrubNoGoodCopy, 12));
        assert_eq!(ledger.unrepaired(), [key(1)]);
        assert_eq!(ledger.view().findings.len(), 2);
        assert_eq!(ledger.view().findings[1].found_ms, 10);

        for inode in 3..=SCRUB_FINDINGS_MAX as u64 + 1 {
            ledger.note(key(inode), damage, found(ScrubOutcome::ScrubLater, 20));
        }
        assert_eq!(ledger.view().findings.len(), SCRUB_FINDINGS_MAX);
        assert_eq!(ledger.outcome(key(2), damage), None);
        assert_eq!(ledger.view().dropped, 1);
        assert_eq!(
            ledger.outcome(key(1), damage),
            Some(ScrubOutcome::ScrubNoGoodCopy)
        );

        ledger.note_repaired(key(1), damage);
        assert_eq!(
            ledger.outcome(key(1), damage),
            Some(ScrubOutcome::ScrubRepaired)
        );
        ledger.retain(|found| found == key(1));
        assert_eq!(ledger.view().findings.len(), 1);
    }
}
