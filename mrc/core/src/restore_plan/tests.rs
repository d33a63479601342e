//! What a plan makes of maps and dumps.

use super::*;

fn group(view: u64, osds: &[u64], previous: &[u64]) -> dump::Group {
    dump::Group {
        volume: 1,
        view,
        osds: osds.to_vec(),
        previous: previous.to_vec(),
        ..dump::Group::default()
    }
}

fn dumped(group: dump::Group) -> Registry {
    let server = |osd: u64| dump::ObjectServer {
        osd,
        address: format!("a:{osd}"),
        store_uuid: format!("store-{osd}"),
        ..dump::ObjectServer::default()
    };
    Registry {
        volumes: vec![dump::Volume {
            volume: 1,
            name: "home".to_owned(),
            write_policy: "memsync".to_owned(),
            ..dump::Volume::default()
        }],
        groups: vec![group],
        object_servers: (1..=3).map(server).collect(),
        map_version: 10,
    }
}

fn map(version: u64, group: &dump::Group) -> mrc::OsdMap {
    mrc::OsdMap {
        version,
        osds: (1..=5)
            .map(|osd| mrc::Replica {
                osd,
                address: format!("b:{osd}"),
            })
            .collect(),
        pgs: vec![mrc::Pg {
            volume: 1,
            view: group.view,
            osds: group.osds.clone(),
            previous: group.previous.clone(),
            incomplete: group.incomplete.clone(),
            ..mrc::Pg::default()
        }],
        volumes: vec![mrc::VolumePolicy {
            volume: 1,
            write_policy: "async".to_owned(),
            ..mrc::VolumePolicy::default()
        }],
        ..mrc::OsdMap::default()
    }
}

fn asked(osd: u64, map: mrc::OsdMap) -> Asked {
    Asked {
        osd,
        store_uuid: format!("store-{osd}"),
        map: Some(map),
    }
}

#[test]
fn unchanged_set_goes_on_in_a_view_and_version_beyond_all_others() {
    let one = group(3, &[1, 2, 3], &[]);
    let maps = [asked(1, map(9, &one)), asked(2, map(10, &one))];

    let plan = plan(&dumped(one.clone()), &maps).unwrap();

    let view = 3 + VERSIONS_SKIPPED;
    assert_eq!(plan.groups, [dump::Group { view, ..one }]);
    assert_eq!(plan.map_version, 10 + VERSIONS_SKIPPED);
    assert_eq!(plan.volumes[0].write_policy, "memsync");
    assert_eq!(plan.object_servers.len(), 3);
}

#[test]
fn set_that_changed_after_the_dump_is_that_of_the_newest_map() {
    let old = group(3, &[1, 2, 3], &[]);
    let new = group(5, &[1, 4, 5], &[]);
    let maps = [
        asked(1, map(14, &new)),
        asked(2, map(10, &old)),
        asked(3, map(10, &old)),
        asked(4, map(13, &new)),
    ];

    let plan = plan(&dumped(old), &maps).unwrap();

    assert_eq!(plan.groups[0].osds, [1, 4, 5]);
    assert_eq!(plan.groups[0].incomplete, []);
    assert_eq!(plan.volumes[0].write_policy, "async");
    let last = plan.object_servers.last().unwrap();
    assert_eq!(last.osd, 5, "it did not answer");
    assert_eq!(
        (last.address.as_str(), last.store_uuid.as_str()),
        ("b:5", "unknown")
    );
}

/// 1 and 2 may have moved everything to others that are away, too; 3 alone would serve what is stale.
#[test]
fn group_of_which_no_majority_was_asked_is_refused() {
    let one = group(3, &[1, 2, 3], &[]);
    let plan = |asked: &[Asked]| plan(&dumped(one.clone()), asked);
    let stranger = asked(4, map(10, &group(3, &[1, 2, 3], &[])));

    let refusal = plan(&[asked(3, map(10, &one)), stranger]).unwrap_err();
    let Refusal::TooFew { known, set, .. } = &refusal else {
        panic!("{refusal}");
    };
    assert_eq!((&known[..], &set[..]), (&[3][..], &[1, 2, 3][..]));
    assert!(refusal.to_string().contains("home.0"), "{refusal}");
    // What a server without a map knew nobody knows.
    let forgetful = Asked {
        map: None,
        ..asked(2, map(1, &one))
    };
    assert!(plan(&[asked(3, map(10, &one)), forgetful]).is_err());
    assert!(plan(&[]).is_err());
}

#[test]
fn group_under_change_takes_a_majority_of_either_set_and_settles_anew() {
    let changing = group(4, &[1, 2, 4], &[1, 2, 3]);
    let old = dumped(group(3, &[1, 2, 3], &[]));
    let new = map(12, &changing);

    let both = [asked(1, new.clone()), asked(2, new.clone())];
    let plan_of_both = plan(&old, &both).unwrap();
    assert_eq!(plan_of_both.groups[0].settling, [1, 2, 4, 3]);
    assert_eq!(plan_of_both.groups[0].previous, [1, 2, 3]);

    let one_each = [asked(4, new.clone()), asked(1, new.clone())];
    assert!(plan(&old, &one_each).is_err(), "1 of the set before");
    let three = [
        asked(4, new.clone()),
        asked(1, new.clone()),
        asked(3, map(10, &old.groups[0])),
    ];
    assert!(plan(&old, &three).is_ok());
}

#[test]
fn server_with_another_store_that_nobody_has_marked_counts_as_incomplete() {
    let one = group(3, &[1, 2, 3], &[]);
    let new_store = |map| Asked {
        osd: 3,
        store_uuid: "other".to_owned(),
        map,
    };
    let incomplete = |third: Asked| {
        let others = [asked(1, map(11, &one)), asked(2, map(11, &one)), third];
        plan(&dumped(one.clone()), &others)
            .unwrap()
            .groups
            .remove(0)
            .incomplete
    };

    assert_eq!(incomplete(new_store(None)), [3]);
    // A new cluster gave it a map without volumes.
    assert_eq!(incomplete(new_store(Some(mrc::OsdMap::default()))), [3]);
    // The lost cluster knew of that store: its marks hold.
    assert_eq!(incomplete(new_store(Some(map(11, &one)))), []);
    assert_eq!(incomplete(asked(3, mrc::OsdMap::default())), []);
}

#[test]
fn maps_of_two_histories_are_refused() {
    let one = group(3, &[1, 2, 3], &[]);
    let maps = [
        asked(1, map(12, &one)),
        asked(2, map(11, &group(4, &[1, 2, 3], &[]))),
    ];

    let refusal = plan(&dumped(one), &maps).unwrap_err();

    assert!(
        matches!(
            refusal,
            Refusal::Contradiction {
                osd: 2,
                view: 4,
                ..
            }
        ),
        "{refusal}"
    );
}

#[test]
fn numbers_that_can_not_go_on_are_refused() {
    let one = group(u64::MAX, &[1], &[]);
    let refusal = plan(&dumped(one.clone()), &[asked(1, map(10, &one))]).unwrap_err();
    assert!(matches!(refusal, Refusal::TooGreat { .. }), "{refusal}");
}

#[test]
fn volumes_that_are_being_removed_ask_for_nobody() {
    let mut registry = dumped(group(3, &[1, 2, 3], &[]));
    registry.volumes[0].deleted = true;
    assert!(plan(&registry, &[]).is_ok());
}
