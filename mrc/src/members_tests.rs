//! Tests of the planner of changes of the metadata servers.

use super::*;

/// Voters with these ids and ten times as large numbers; the first leads, all are heard.
fn picture(ids: &[u64]) -> Picture {
    let mut picture = Picture {
        me: ids.first().map_or(0, |id| id * 10),
        ..Picture::default()
    };
    for id in ids {
        picture.voters.insert(id * 10);
        know(&mut picture, id * 10, *id);
    }
    picture
}

fn know(picture: &mut Picture, number: u64, id: u64) {
    let known = Known {
        id,
        address: address(id),
        heard: true,
        lag: Some(0),
    };
    picture.nodes.insert(number, known);
}

fn answers(picture: &mut Picture, number: u64, id: u64) {
    let fresh = true;
    let newcomer = Newcomer { number, id, fresh };
    picture.newcomers.insert(id, newcomer);
}

fn address(id: u64) -> String {
    format!("a:{id}")
}

fn wish(add: &[u64], remove: &[u64]) -> Wish {
    Wish {
        add: add.iter().map(|id| (*id, address(*id))).collect(),
        remove: remove.iter().copied().collect(),
    }
}

fn numbers(numbers: &[u64]) -> BTreeSet<u64> {
    numbers.iter().copied().collect()
}

/// Does what is planned until there is nothing more, and says which voter sets there were.
fn drive(picture: &mut Picture, wish: &Wish) -> Vec<Vec<u64>> {
    let mut sets = Vec::new();
    for _ in 0..20 {
        match plan(picture, wish) {
            Step::Done => return sets,
            Step::Learn { number, id, .. } => know(picture, number, id),
            Step::Vote(voters) => {
                let gone: Vec<u64> = picture.voters.difference(&voters).copied().collect();
                for number in gone {
                    picture.nodes.remove(&number);
                }
                sets.push(voters.iter().copied().collect());
                picture.voters = voters;
            }
            Step::HandOver(next) => picture.me = next,
            Step::Forget(gone) => picture.nodes.retain(|number, _| !gone.contains(number)),
            other => panic!("{other:?}"),
        }
    }
    panic!("it never ends")
}

#[test]
fn one_becomes_three_in_one_change_and_doing_it_again_does_nothing() {
    let mut picture = picture(&[1]);
    answers(&mut picture, 20, 2);
    answers(&mut picture, 30, 3);
    let wish = wish(&[2, 3], &[]);

    assert_eq!(drive(&mut picture, &wish), [vec![10, 20, 30]]);
    assert_eq!(plan(&picture, &wish), Step::Done);
    // Even while they are down.
    picture.newcomers.clear();
    assert_eq!(plan(&picture, &wish), Step::Done);
}

#[test]
fn learner_votes_only_when_it_is_up_to_date() {
    let mut picture = picture(&[1]);
    answers(&mut picture, 20, 2);
    know(&mut picture, 20, 2);
    for lag in [None, Some(JOIN_LAG_ENTRIES_MAX + 1)] {
        picture.nodes.get_mut(&20).unwrap().lag = lag;
        let waits = Step::Wait(Wait::Copy { id: 2, lag });
        assert_eq!(plan(&picture, &wish(&[2], &[])), waits);
    }
    picture.nodes.get_mut(&20).unwrap().lag = Some(JOIN_LAG_ENTRIES_MAX);
    assert_eq!(
        plan(&picture, &wish(&[2], &[])),
        Step::Vote(numbers(&[10, 20]))
    );
}

#[test]
fn leader_that_is_to_go_gives_up_the_lead_first() {
    let mut picture = picture(&[1, 2, 3]);
    picture.nodes.get_mut(&20).unwrap().lag = Some(5);
    assert_eq!(plan(&picture, &wish(&[], &[1])), Step::HandOver(30));
    assert_eq!(
        drive(&mut picture, &wish(&[], &[1, 2])),
        [vec![30]],
        "two at once"
    );
    assert_eq!(plan(&picture, &wish(&[], &[1, 2])), Step::Done);
}

#[test]
fn nobody_goes_before_all_have_heard_who_stays() {
    let mut picture = picture(&[1, 2, 3]);
    picture.untold = 2;
    let waits = Step::Wait(Wait::Told(2));
    assert_eq!(plan(&picture, &wish(&[], &[3])), waits);
    answers(&mut picture, 40, 4);
    know(&mut picture, 40, 4);
    assert_eq!(
        plan(&picture, &wish(&[4], &[])),
        Step::Vote(numbers(&[10, 20, 30, 40])),
        "whoever is added takes nobody's address away"
    );
}

#[test]
fn all_servers_can_be_replaced_at_once_by_way_of_both() {
    let mut picture = picture(&[1, 2]);
    answers(&mut picture, 30, 3);
    answers(&mut picture, 40, 4);
    let sets = drive(&mut picture, &wish(&[3, 4], &[1, 2]));
    assert_eq!(sets, [vec![10, 20, 30, 40], vec![30, 40]]);
}

#[test]
fn removal_that_leaves_no_majority_is_refused() {
    let mut picture = picture(&[1, 2, 3]);
    picture.nodes.get_mut(&30).unwrap().heard = false;
    let refused = Step::Refuse(Refusal::NoMajority {
        silent: vec![3],
        left: 2,
    });
    assert_eq!(plan(&picture, &wish(&[], &[2])), refused);
    // A leader that was elected a moment ago can't know.
    picture.new_leader = true;
    let waits = Step::Wait(Wait::NewLeader);
    assert_eq!(plan(&picture, &wish(&[], &[2])), waits);
    picture.new_leader = false;
    // The dead one may go.
    assert_eq!(
        plan(&picture, &wish(&[], &[3])),
        Step::Vote(numbers(&[10, 20]))
    );
    assert_eq!(
        plan(&picture, &wish(&[], &[1, 2, 3])),
        Step::Refuse(Refusal::Nobody)
    );
}

#[test]
fn wiped_member_replaces_itself_unless_the_old_one_is_heard() {
    let mut picture = picture(&[1, 2, 3]);
    answers(&mut picture, 31, 3);
    let alive = Refusal::Alive {
        id: 3,
        address: address(3),
    };
    assert_eq!(
        plan(&picture, &wish(&[3], &[])),
        Step::Refuse(alive),
        "two servers with one id"
    );
    picture.nodes.get_mut(&30).unwrap().heard = false;
    let sets = drive(&mut picture, &wish(&[3], &[]));
    assert_eq!(sets, [vec![10, 20, 31]]);
}

#[test]
fn server_moves_to_another_machine_under_its_id() {
    let mut picture = picture(&[1, 2, 3]);
    answers(&mut picture, 31, 3);
    let sets = drive(&mut picture, &wish(&[3], &[3]));
    assert_eq!(sets, [vec![10, 20, 31]]);
    assert_eq!(plan(&picture, &wish(&[3], &[3])), Step::Done);
}

#[test]
fn strangers_are_not_added() {
    let mut picture = picture(&[1]);
    let waits = Step::Wait(Wait::Server {
        id: 2,
        address: address(2),
    });
    assert_eq!(plan(&picture, &wish(&[2], &[])), waits);

    let refusal = |newcomer, picture: &mut Picture| {
        picture.newcomers.insert(2, newcomer);
        plan(picture, &wish(&[2], &[]))
    };
    let newcomer = Newcomer {
        number: 20,
        id: 2,
        fresh: false,
    };
    assert!(matches!(
        refusal(newcomer, &mut picture),
        Step::Refuse(Refusal::Used { .. })
    ));
    let newcomer = Newcomer {
        id: 7,
        fresh: true,
        ..newcomer
    };
    assert!(matches!(
        refusal(newcomer, &mut picture),
        Step::Refuse(Refusal::OtherId { found: 7, .. })
    ));
}

#[test]
fn learner_of_a_change_that_was_given_up_is_forgotten() {
    let mut picture = picture(&[1, 2, 3]);
    know(&mut picture, 40, 4);
    let forget = Step::Forget(numbers(&[40]));
    assert_eq!(plan(&picture, &wish(&[], &[4])), forget);
    assert_eq!(drive(&mut picture, &wish(&[], &[4])), [] as [Vec<u64>; 0]);
    assert!(!picture.nodes.contains_key(&40));
}

#[test]
fn there_are_never_more_voters_than_allowed() {
    let ids: Vec<u64> = (1..=VOTERS_MAX as u64).collect();
    let mut picture = picture(&ids);
    answers(&mut picture, 90, 9);
    assert_eq!(
        plan(&picture, &wish(&[9], &[])),
        Step::Refuse(Refusal::TooMany(VOTERS_MAX + 1))
    );
}
