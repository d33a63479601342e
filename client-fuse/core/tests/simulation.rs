//! One mount that keeps a quota of bytes, from a seed: it writes, reports and asks in any order, answers come late,
//! and others make room meanwhile. Nothing goes beyond the quota, and nobody is refused who has room.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests fail as tests do"
)]

use client_core::{Growth, Question, Room, Verdict, Volume};

const FILES: usize = 3;
const STEPS: u32 = 400;

/// Splitmix64: as good as any here, and the same everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (word ^ (word >> 31)) % end
    }
}

#[derive(Clone, Copy, Default)]
struct File {
    /// Its length here.
    end: u64,
    /// As the leader answered last.
    known: u64,
    /// What the leader is being told; 0 if nothing.
    telling: u64,
    /// What the leader counts.
    counted: u64,
    growth: Growth,
}

/// A question that is under way.
struct Asked {
    question: Question,
    file: usize,
    bytes: u64,
    /// What the leader answered, and what the others used then.
    answer: Option<(Volume, u64)>,
}

struct World {
    random: Random,
    room: Room,
    files: [File; FILES],
    others: u64,
    limit: u64,
    asked: Option<Asked>,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut world = Self {
            random: Random(seed),
            room: Room::default(),
            files: [File::default(); FILES],
            others: 400,
            limit: 1000,
            asked: None,
        };
        let question = world.room.ask();
        let volume = world.volume();
        world.room.answered(question, volume, 0);
        world
    }

    fn volume(&self) -> Volume {
        let counted: u64 = self.files.iter().map(|file| file.counted).sum();
        Volume {
            limit_bytes: Some(self.limit),
            used_bytes: self.others + counted,
        }
    }

    fn own(&self) -> u64 {
        self.files.iter().map(|file| file.end).sum()
    }

    fn step(&mut self) -> Result<(), String> {
        let file = self.random.below(FILES as u64) as usize;
        match self.random.below(8) {
            0 | 1 => self.write(file),
            2 => self.begin_report(file),
            3 => {
                let told = self.files[file].telling;
                let counted = &mut self.files[file].counted;
                *counted = told.max(*counted);
                Ok(())
            }
            4 => self.end_report(file),
            5 => {
                let volume = self.volume();
                let others = self.others;
                if let Some(asked) = &mut self.asked {
                    asked.answer.get_or_insert((volume, others));
                }
                Ok(())
            }
            6 => self.take_answer(),
            _ => {
                let freed = self.random.below(3).min(self.others);
                self.others -= freed;
                Ok(())
            }
        }
    }

    fn write(&mut self, file: usize) -> Result<(), String> {
        let bytes = 1 + self.random.below(30);
        if self.room.admits(bytes) {
            return self.grow(file, bytes);
        }
        if self.asked.is_none() {
            self.asked = Some(Asked {
                question: self.room.ask(),
                file,
                bytes,
                answer: None,
            });
        }
        Ok(())
    }

    fn grow(&mut self, file: usize, bytes: u64) -> Result<(), String> {
        self.files[file].end += bytes;
        self.account(file);
        let sum = self.others + self.own();
        if sum > self.limit {
            return Err(format!("{sum} bytes are beyond the quota"));
        }
        Ok(())
    }

    fn account(&mut self, file: usize) {
        let it = &mut self.files[file];
        let growth = Growth::of(it.end, it.known, it.telling);
        self.room.account(it.growth, growth);
        it.growth = growth;
    }

    fn begin_report(&mut self, file: usize) -> Result<(), String> {
        if self.files[file].telling == 0 {
            self.files[file].telling = self.files[file].end;
            self.account(file);
        }
        Ok(())
    }

    /// The leader's answer to a report comes, if it has taken it.
    fn end_report(&mut self, file: usize) -> Result<(), String> {
        let it = &mut self.files[file];
        if it.telling > 0 && it.counted == it.telling {
            self.room.reported(it.growth.told);
            it.known = it.telling;
            it.telling = 0;
            self.account(file);
        }
        Ok(())
    }

    fn take_answer(&mut self) -> Result<(), String> {
        let Some(asked) = self.asked.take_if(|asked| asked.answer.is_some()) else {
            return Ok(());
        };
        let (volume, others) = asked.answer.unwrap();
        match self.room.answered(asked.question, volume, asked.bytes) {
            Verdict::Fits => self.grow(asked.file, asked.bytes),
            Verdict::Unclear => Ok(()),
            Verdict::Over if others + self.own() + asked.bytes > self.limit => Ok(()),
            Verdict::Over => Err(format!("{} bytes are refused that fit", asked.bytes)),
        }
    }

    /// All reports and answers come; then what is known is what is.
    fn calm_down(&mut self) -> Result<(), String> {
        for file in 0..FILES {
            self.begin_report(file)?;
            let told = self.files[file].telling;
            self.files[file].counted = told.max(self.files[file].counted);
            self.end_report(file)?;
        }
        let question = self.room.ask();
        let volume = self.volume();
        let left = self.limit - self.others - self.own();
        for (bytes, expected) in [(left, Verdict::Fits), (left + 1, Verdict::Over)] {
            let verdict = self.room.answered(question, volume, bytes);
            if verdict != expected {
                return Err(format!("of {left} bytes left, {bytes}: {verdict:?}"));
            }
        }
        Ok(())
    }
}

fn run(seed: u64) -> Result<(), String> {
    let mut world = World::new(seed);
    for _ in 0..STEPS {
        world.step()?;
    }
    world.calm_down()
}

#[test]
fn one_mount_keeps_its_quota_to_the_byte_however_answers_are_late() {
    for seed in 0..2000 {
        if let Err(why) = run(seed) {
            panic!("seed {seed}: {why}");
        }
    }
}

#[cfg(feature = "mutants")]
mod mutants {
    use client_core::Mutant;

    use super::run;

    /// Each wrong edit is found within so many seeds, by the rule it breaks.
    fn check(mutant: Mutant, rule: &str) {
        const SEEDS: u64 = 50;
        let found = mutant.during(|| (0..SEEDS).find_map(|seed| run(seed).err()));
        let why = found.unwrap_or_else(|| panic!("{mutant:?} survived {SEEDS} seeds"));
        assert!(why.contains(rule), "{mutant:?}: {why}");
    }

    #[test]
    fn what_is_counted_not_at_all_is_found() {
        for mutant in [
            Mutant::ToldIgnored,
            Mutant::UntoldIgnored,
            Mutant::ReportForgotten,
            Mutant::MeanwhileForgotten,
        ] {
            check(mutant, "beyond the quota");
        }
    }

    #[test]
    fn one_byte_more_than_the_quota_is_found() {
        // Beyond the quota, or by the last count: whatever comes first.
        check(Mutant::OneMore, "");
    }

    #[test]
    fn refusal_for_what_is_counted_twice_is_found() {
        check(Mutant::UnclearRefused, "refused that fit");
    }
}
