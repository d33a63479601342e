//! What each client does, one operation after the other: a function of the seed and its number.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::directories::NAMES;
use crate::operation::Operation;
use crate::register;

/// Clients of each mount.
pub(crate) const CLIENTS_PER_MOUNT: u32 = 4;

/// Logs whose records are synced one by one, and one whose records are synced now and then.
pub(crate) const LOGS: [&str; 3] = ["log-synced-0", "log-synced-1", "log-plain"];

/// The log whose records are synced now and then.
const PLAIN_LOG: &str = LOGS[2];

/// After so many steps a client goes on in the next directories, so that the history of each stays
/// short enough to be checked as a whole.
const STEPS_PER_DIRECTORY: u64 = 60;

/// Directories in use at a time.
const DIRECTORIES: u64 = 3;

/// Pause after an operation. The machine is shared with seven servers and three mounts.
const PAUSE_MS: std::ops::Range<u64> = 2..40;

/// How an operation is done, where that may matter.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Manner {
    /// Through a descriptor that stays open, instead of one opened for the purpose.
    pub(crate) held: bool,
    /// With `O_DIRECT`.
    pub(crate) direct: bool,
    /// Appends with `O_SYNC`, instead of a sync afterwards.
    pub(crate) o_sync: bool,
}

/// An operation of the plan.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Step {
    /// What.
    pub(crate) operation: Operation,
    /// How.
    pub(crate) manner: Manner,
    /// Pause afterwards.
    pub(crate) pause_ms: u64,
}

/// A client's plan; it has no end.
#[derive(Debug)]
pub(crate) struct Plan {
    rng: ChaCha8Rng,
    client: u32,
    keys: Vec<String>,
    steps: u64,
    written: u32,
    appended: u32,
}

impl Plan {
    /// The plan of a client.
    pub(crate) fn new(seed: u64, client: u32) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(u64::from(client) + 1);
        Self {
            rng,
            client,
            keys: register::keys(),
            steps: 0,
            written: 0,
            appended: 0,
        }
    }

    fn operation(&mut self) -> Operation {
        match self.rng.random_range(0..100) {
            0..22 => self.write(),
            22..48 => Operation::Read { key: self.key() },
            48..64 => self.append(),
            64..66 => Operation::Sync {
                log: PLAIN_LOG.to_owned(),
            },
            66..68 => Operation::ReadLog {
                log: LOGS[self.rng.random_range(0..LOGS.len())].to_owned(),
            },
            68..78 => Operation::Create {
                dir: self.dir(),
                name: self.name(),
            },
            78..84 => Operation::Unlink {
                dir: self.dir(),
                name: self.name(),
            },
            84..90 => {
                let from = self.name();
                let to = (from + self.rng.random_range(1..NAMES)) % NAMES;
                let dir = self.dir();
                Operation::Rename { dir, from, to }
            }
            _ => Operation::Look {
                dir: self.dir(),
                name: self.name(),
            },
        }
    }

    fn write(&mut self) -> Operation {
        self.written += 1;
        Operation::Write {
            key: self.key(),
            // Never the initial value, never twice.
            value: (u64::from(self.client) + 1) << 32 | u64::from(self.written),
        }
    }

    fn append(&mut self) -> Operation {
        let log = LOGS[self.rng.random_range(0..LOGS.len())];
        self.appended += 1;
        Operation::Append {
            log: log.to_owned(),
            writer: self.client,
            number: self.appended,
            synced: log != PLAIN_LOG,
        }
    }

    fn key(&mut self) -> String {
        self.keys[self.rng.random_range(0..self.keys.len())].clone()
    }

    fn dir(&mut self) -> String {
        let generation = self.steps / STEPS_PER_DIRECTORY;
        let number = self.rng.random_range(0..DIRECTORIES);
        format!("names/{generation}-{number}")
    }

    fn name(&mut self) -> u8 {
        self.rng.random_range(0..NAMES)
    }
}

impl Iterator for Plan {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        let operation = self.operation();
        self.steps += 1;
        Some(Step {
            operation,
            manner: Manner {
                held: self.rng.random_bool(0.4),
                direct: self.rng.random_bool(0.3),
                o_sync: self.rng.random_bool(0.5),
            },
            pause_ms: self.rng.random_range(PAUSE_MS),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn steps(seed: u64, client: u32) -> Vec<Step> {
        Plan::new(seed, client).take(500).collect()
    }

    #[test]
    fn same_seed_and_client_give_the_same_steps() {
        assert_eq!(steps(1, 2), steps(1, 2));
        assert_ne!(steps(1, 2), steps(2, 2));
        assert_ne!(steps(1, 2), steps(1, 3));
    }

    #[test]
    fn every_operation_comes_soon_and_no_value_twice() {
        let all: Vec<Step> = (0..4).flat_map(|client| steps(1, client)).collect();
        let names: BTreeSet<&str> = all.iter().map(|step| step.operation.name()).collect();
        let values = all.iter().filter_map(|step| match step.operation {
            Operation::Write { value, .. } => Some(value),
            _ => None,
        });
        let values: Vec<u64> = values.collect();
        let different: BTreeSet<&u64> = values.iter().collect();

        assert_eq!(names.len(), 10, "{names:?}");
        assert_eq!(values.len(), different.len());
    }
}
