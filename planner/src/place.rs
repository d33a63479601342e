//! How much of their fate servers share, by their locations.

use std::collections::BTreeMap;

/// Levels of a location that are told apart. 7: one byte each of a word of 64 bits, and one for
/// locations that are equal; `site/rack/host` has 3.
const LEVELS_MAX: usize = 7;

/// Locations as small numbers, and for each two of them how close they are.
#[derive(Debug)]
pub(crate) struct Places {
    count: usize,
    table: Vec<u64>,
}

/// How close a server is to others: sums of [`weight`]s. A comparison looks at the number of others
/// at the same place first, then of those that share all levels but one, and so on: what is smaller
/// is better spread.
pub(crate) type Closeness = u64;

impl Places {
    /// Numbers the locations in the order given; equal ones get the same number.
    pub(crate) fn of<'a>(locations: impl Iterator<Item = &'a str>) -> (Self, Vec<usize>) {
        let mut numbers: BTreeMap<Vec<&str>, usize> = BTreeMap::new();
        let mut paths: Vec<Vec<&str>> = Vec::new();
        let numbered = locations
            .map(|location| {
                let levels: Vec<&str> = location.split('/').filter(|at| !at.is_empty()).collect();
                *numbers.entry(levels).or_insert_with_key(|levels| {
                    paths.push(levels.clone());
                    paths.len() - 1
                })
            })
            .collect();
        let table = paths
            .iter()
            .flat_map(|one| paths.iter().map(|other| weight(one, other)))
            .collect();
        let count = paths.len();
        (Self { count, table }, numbered)
    }

    /// How close two places are.
    pub(crate) fn closeness(&self, one: usize, other: usize) -> Closeness {
        let at = one.saturating_mul(self.count).saturating_add(other);
        self.table.get(at).copied().unwrap_or(0)
    }
}

/// One unit in the byte of the levels shared. Up to 255 of them can be added without a carry; replica
/// sets have a few members.
fn weight(one: &[&str], other: &[&str]) -> Closeness {
    if one.is_empty() || other.is_empty() {
        return 0;
    }
    if one == other {
        return 1 << (8 * LEVELS_MAX);
    }
    let shared = one.iter().zip(other).take_while(|(a, b)| a == b).count();
    match shared.min(LEVELS_MAX) {
        0 => 0,
        levels => 1 << (8 * (levels - 1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearer_places_are_closer_and_unknown_ones_are_close_to_nobody() {
        let (places, at) =
            Places::of(["s/r/h", "s/r/i", "s/q/h", "t/r/h", "", "", "/s/r/h/"].into_iter());
        let closeness = |one: usize, other: usize| places.closeness(at[one], at[other]);

        assert!(closeness(0, 6) > closeness(0, 1));
        assert!(closeness(0, 1) > closeness(0, 2));
        assert!(closeness(0, 2) > closeness(0, 3));
        assert_eq!(
            (closeness(0, 3), closeness(0, 4), closeness(4, 5)),
            (0, 0, 0)
        );
        // One neighbour in the rack is worse than many in the site.
        assert!(closeness(0, 1) > 200 * closeness(0, 2));
    }
}
