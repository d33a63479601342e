//! Sessions and exactly-once slots.

use mrc_core::{Effects, IndexError, Overlay, config, errno, query};
use proto::index::command::Op;
use proto::index::{CloseSession, Command, ExpireSession, ForgetSession};
use proto::mrc::{self, request, response};
use types::{Remedy, SessionId, UnixNanos};

use crate::cluster::*;

#[test]
fn repeated_request_gets_the_stored_reply_and_does_nothing() {
    let (mut cluster, session) = Cluster::new();
    let make = cluster.command(session, 3, mkdir(ROOT, "d"));
    let first = cluster.apply(make.clone());
    let before = cluster.entries();

    // As a leader that took over would do it: later, with its own clock.
    let again = cluster.apply(Command {
        time_ns: cluster.now + 99,
        ..make
    });

    assert_eq!(again.reply, first.reply);
    assert!(first.reply.is_ok(), "a repeated mkdir never says EEXIST");
    assert_eq!(again.effects, Effects::default());
    assert_eq!(cluster.entries(), before);
}

#[test]
fn repeated_refusal_is_the_same_refusal_even_if_it_would_now_succeed() {
    let (mut cluster, session) = Cluster::new();
    let refused = cluster.command(session, 0, unlink(ROOT, "f"));
    let first = cluster.apply(refused.clone());
    let create = cluster.command(session, 1, create(ROOT, "f", false));
    cluster.apply(create).reply.unwrap();

    let again = cluster.apply(refused);

    assert_eq!(errno_of(&first.reply), errno::ENOENT);
    assert_eq!(again.reply, first.reply);
    assert_eq!(cluster.names(ROOT), [b"f"]);
}

#[test]
fn request_out_of_turn_is_refused() {
    let (mut cluster, session) = Cluster::new();
    for _ in 0..3 {
        let command = cluster.command(session, 0, unlink(ROOT, "none"));
        cluster.apply(command);
    }
    let template = cluster.command(session, 0, mkdir(ROOT, "d"));
    let before = cluster.entries();

    for (slot, slot_seq) in [
        (0, 0),
        (0, 2),
        (0, 5),
        (0, u64::MAX),
        (1, 0),
        (1, 2),
        (64, 1),
    ] {
        let reply = cluster
            .apply(Command {
                slot,
                slot_seq,
                ..template.clone()
            })
            .reply;
        assert_eq!(
            errno_of(&reply),
            errno::EPROTO,
            "slot {slot}, seq {slot_seq}"
        );
        assert_eq!(reply.unwrap_err().remedy, Remedy::Surface);
    }
    assert_eq!(cluster.entries(), before);
    assert!(cluster.apply(template).reply.is_ok());
}

#[test]
fn unknown_and_ended_sessions_are_told_to_refresh() {
    let (mut cluster, session) = Cluster::new();
    let expired = cluster.open_session(78);
    cluster.internal(Op::ExpireSession(ExpireSession { session: expired }));
    let before = cluster.entries();

    for unusable in [0, 999, expired] {
        let reply = cluster.change(unusable, mkdir(ROOT, "d"));
        assert_eq!(
            reply.unwrap_err().remedy,
            Remedy::Refresh,
            "session {unusable}"
        );
    }

    assert_eq!(cluster.entries(), before);
    assert!(cluster.change(session, mkdir(ROOT, "d")).is_ok());
    cluster.assert_consistent();
}

#[test]
fn repeated_open_finds_the_session_it_made() {
    let (mut cluster, session) = Cluster::new();
    let before = cluster.entries();

    let reply = cluster.try_open_session("default", 77).unwrap();

    let Some(response::Reply::SessionOpened(opened)) = reply.reply else {
        panic!("not opened");
    };
    assert_eq!((opened.session, opened.volume), (session, VOLUME.0));
    assert_eq!(
        (opened.timeout_ms, opened.slot_count),
        (30_000, config::SLOT_COUNT)
    );
    assert_eq!(opened.root, Some(cluster.attr(ROOT)));
    assert_eq!(cluster.entries(), before);
    assert_ne!(cluster.open_session(78), session);

    let reply = cluster.try_open_session("none", 79);
    assert_eq!(errno_of(&reply), errno::ENOENT);
    cluster.assert_consistent();
}

#[test]
fn nonce_of_an_ended_session_opens_no_second_one() {
    let (mut cluster, session) = Cluster::new();
    cluster.internal(Op::ExpireSession(ExpireSession { session }));

    let reply = cluster.try_open_session("default", 77);

    assert_eq!(errno_of(&reply), errno::EINVAL);
}

#[test]
fn sessions_are_listed_without_their_slots_and_forgotten_with_them() {
    let (mut cluster, first) = Cluster::new();
    let second = cluster.open_session(78);
    for slot in 0..config::SLOT_COUNT {
        let command = cluster.command(first, slot, unlink(ROOT, "none"));
        cluster.apply(command);
    }
    let listed = |cluster: &Cluster| -> Vec<u64> {
        let all = query::sessions(&cluster.index).unwrap();
        all.iter().map(|(session, _)| session.0).collect()
    };
    assert_eq!(listed(&cluster), [first, second]);

    let busy = cluster.internal(Op::ForgetSession(forget(first)));
    assert_eq!(
        errno_of(&busy.reply),
        errno::EBUSY,
        "only ended sessions are forgotten"
    );
    let ended = cluster.internal(Op::CloseSession(CloseSession { session: first }));
    assert!(ended.effects.session_ended);
    let again = cluster.internal(Op::CloseSession(CloseSession { session: first }));
    assert!(again.reply.is_ok() && !again.effects.session_ended);
    let record = query::session(&cluster.index, SessionId(first))
        .unwrap()
        .unwrap();
    assert!(record.ended && !record.expired);
    cluster.assert_consistent();
    for _ in 0..2 {
        let forgotten = cluster.internal(Op::ForgetSession(forget(first)));
        assert!(forgotten.reply.is_ok());
    }

    assert_eq!(listed(&cluster), [second]);
    let slots = cluster
        .entries()
        .iter()
        .filter(|(key, _)| key[0] == b's' && key.len() > 9)
        .count();
    assert_eq!(slots, 0);
    cluster.assert_consistent();
}

#[test]
fn requests_become_commands_and_reads_do_not() {
    let request = |op| mrc::Request {
        order: 0,
        session: 5,
        slot: 6,
        slot_seq: 7,
        forward: false,
        op: Some(op),
    };
    let rename = request::Op::Rename(mrc::Rename::default());

    let command = mrc_core::of_request(request(rename), UnixNanos(9)).unwrap();
    assert_eq!((command.session, command.slot, command.slot_seq), (5, 6, 7));
    assert_eq!(
        (command.time_ns, command.op),
        (9, Some(Op::Rename(mrc::Rename::default())))
    );

    let close = mrc_core::of_request(
        request(request::Op::CloseSession(mrc::CloseSession {})),
        UnixNanos(9),
    );
    assert_eq!(
        close.unwrap().op,
        Some(Op::CloseSession(CloseSession { session: 5 }))
    );

    let read = request(lookup(ROOT, "x"));
    let back = mrc_core::of_request(read.clone(), UnixNanos(9)).unwrap_err();
    assert_eq!(*back, read);
}

#[test]
fn command_of_a_newer_program_is_refused() {
    let (cluster, _) = Cluster::new();
    let command = Command {
        time_ns: 1,
        ..Command::default()
    };
    // The index would differ from that of a server which knows it, so this one must not go on.
    let outcome = mrc_core::apply(&cluster.index, &mut Overlay::new(), &command);
    assert!(
        matches!(outcome, Err(IndexError::UnknownCommand)),
        "{outcome:?}"
    );
}

#[test]
fn what_became_of_a_request_is_told_after_its_session_expired() {
    let (mut cluster, session) = Cluster::new();
    let made = cluster.command(session, 3, mkdir(ROOT, "done"));
    let first = cluster.apply(made.clone()).reply;
    let late = cluster.command(session, 3, mkdir(ROOT, "not done"));
    cluster.internal(Op::ExpireSession(ExpireSession { session }));
    let keep = ForgetSession {
        session,
        keep_slots: true,
    };

    for settled in [false, true] {
        if settled {
            cluster.internal(Op::ForgetSession(keep)).reply.unwrap();
        }
        let before = cluster.entries();
        assert_eq!(cluster.apply(made.clone()).reply, first);
        let refused = cluster.apply(late.clone()).reply.unwrap_err();
        assert_eq!(refused.remedy, Remedy::Refresh);
        assert_ne!(refused.errno, errno::EIO, "it is known not to be done");
        assert_eq!(cluster.entries(), before);
        cluster.assert_consistent();
    }
    let forgotten = cluster.internal(Op::ForgetSession(forget(session)));
    forgotten.reply.unwrap();

    let unknown = cluster.apply(made).reply.unwrap_err();
    assert_eq!(
        (unknown.remedy, unknown.errno),
        (Remedy::Refresh, errno::EIO)
    );
    assert_eq!(cluster.names(ROOT), [b"done"]);
    cluster.assert_consistent();
}

#[test]
fn session_whose_answers_are_kept_holds_up_no_deletion_of_its_volume() {
    let (mut cluster, session) = Cluster::new();
    cluster.change(session, mkdir(ROOT, "d")).unwrap();
    cluster.internal(Op::ExpireSession(ExpireSession { session }));
    let keep = ForgetSession {
        session,
        keep_slots: true,
    };
    cluster.internal(Op::ForgetSession(keep)).reply.unwrap();

    let delete = Op::VolumeDelete(proto::index::VolumeDelete {
        name: "default".to_owned(),
        nonce: 0,
    });
    cluster.internal(delete).reply.unwrap();
    while !mrc_core::janitor::deleted_volumes(&cluster.index)
        .unwrap()
        .is_empty()
    {
        let purge = Op::VolumePurge(proto::index::VolumePurge {
            volume: VOLUME.0,
            limit: 0,
        });
        cluster.internal(purge).reply.unwrap();
    }
    cluster.assert_consistent();
    cluster
        .internal(Op::ForgetSession(forget(session)))
        .reply
        .unwrap();

    cluster.assert_consistent();
}
