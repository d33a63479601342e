//! Scrubs of three servers, one after the other, whatever has become of their copies of a block.

use bytes::Bytes;
use osd_core::Config;
use osd_core::scrub::{Answer, Copy, Verdict, judge};
use types::OsdId;

use crate::config;

const GOOD: &[u8] = b"what was written";
const ZEROS: &[u8] = &[0; 16];
const OTHER: &[u8] = b"of another place";

fn copy(bytes: &'static [u8], fits: bool) -> Copy {
    Copy {
        at_rest: Some(osd_core::Position::default()),
        length_bytes: 16,
        bytes: Bytes::from_static(bytes),
        fits,
    }
}

/// All that can happen to three copies, but for damage that leaves a majority of sound copies wrong, and all orders
/// in which their servers scrub. Returns a case in which not all are good afterwards.
pub(crate) fn spreads(config: &Config) -> Option<String> {
    let kinds = [
        copy(GOOD, true),
        copy(ZEROS, false),
        copy(OTHER, false),
        copy(ZEROS, true),
    ];
    let [good, .., zeros] = &kinds;
    let orders = [
        [0, 1, 2],
        [0, 2, 1],
        [1, 0, 2],
        [1, 2, 0],
        [2, 0, 1],
        [2, 1, 0],
    ];
    for place in 0..kinds.len().pow(3) {
        let pick = |digit: u32| kinds[place / kinds.len().pow(digit) % kinds.len()].clone();
        let before = [pick(0), pick(1), pick(2)];
        let count = |copy: &Copy| before.iter().filter(|one| *one == copy).count();
        if count(good) == 0 || count(zeros) > 1 {
            continue;
        }
        for order in orders {
            let mut copies = before.clone();
            for me in order {
                scrub(config, &mut copies, me);
            }
            if copies.iter().any(|copy| copy != good) {
                return Some(format!("{before:?} in order {order:?} became {copies:?}"));
            }
        }
    }
    None
}

fn scrub(config: &Config, copies: &mut [Copy; 3], me: usize) {
    let theirs: Vec<_> = (0..3)
        .filter(|other| *other != me)
        .map(|other| (OsdId(other as u64), Answer::Copy(copies[other].clone())))
        .collect();
    if let Verdict::Replace { bytes, .. } = judge(config, &copies[me], &theirs, 2) {
        copies[me].bytes = bytes;
        copies[me].fits = true;
    }
}

#[test]
fn one_good_copy_of_three_repairs_the_others_in_whatever_order_they_are_looked_at() {
    assert_eq!(spreads(&config()), None);
}
