//! Lease messages as they travel, and what is believed of those that arrive.

use lease::{Ballot, Body, Holder, Message};
use proto::peer;
use types::{CellId, Duration, MemberId};

/// Longest duration believed. One hour: lease times are seconds; more is nonsense.
const DURATION_MAX: Duration = Duration::from_secs(3600);
/// Highest epoch, counter or view believed, so that nothing a peer says can make ours overflow.
const NUMBER_MAX: u64 = 1 << 62;

/// As it travels.
pub(crate) fn encode(message: &Message) -> peer::LeaseMessage {
    use peer::lease_message::Body as Wire;
    let body = match message.body {
        Body::Prepare => Wire::Prepare(peer::Prepare {}),
        Body::Promise { floor_epoch } => Wire::Promise(peer::Promise { floor_epoch }),
        Body::Accept {
            epoch,
            ttl,
            renewal,
            successor,
        } => Wire::Accept(peer::Accept {
            epoch,
            ttl_ns: ttl.as_nanos(),
            renewal,
            successor: successor.map(|member| member.0),
        }),
        Body::Accepted { epoch } => Wire::Accepted(peer::Accepted { epoch }),
        Body::Reject {
            promised,
            view,
            floor_epoch,
            holder,
        } => Wire::Reject(peer::Reject {
            promised_counter: promised.counter,
            promised_member: promised.member.0,
            view,
            floor_epoch,
            holder: holder.map(|holder| holder.member.0),
            remaining_ns: holder.map_or(0, |holder| holder.remaining.as_nanos()),
        }),
    };
    peer::LeaseMessage {
        cell_high: (message.cell.0 >> 64) as u64,
        cell_low: message.cell.0 as u64,
        view: message.view,
        ballot_counter: message.ballot.counter,
        ballot_member: message.ballot.member.0,
        round: message.round,
        body: Some(body),
    }
}

/// Decodes a message; none if it is not believable.
pub(crate) fn decode(wire: &peer::LeaseMessage) -> Option<Message> {
    use peer::lease_message::Body as Wire;
    let body = match wire.body.as_ref()? {
        Wire::Prepare(peer::Prepare {}) => Body::Prepare,
        Wire::Promise(promise) => Body::Promise {
            floor_epoch: number(promise.floor_epoch)?,
        },
        Wire::Accept(accept) => Body::Accept {
            epoch: number(accept.epoch)?,
            ttl: duration(accept.ttl_ns)?,
            renewal: accept.renewal,
            successor: accept.successor.map(MemberId),
        },
        Wire::Accepted(accepted) => Body::Accepted {
            epoch: number(accepted.epoch)?,
        },
        Wire::Reject(reject) => Body::Reject {
            promised: Ballot {
                counter: number(reject.promised_counter)?,
                member: MemberId(reject.promised_member),
            },
            view: number(reject.view)?,
            floor_epoch: number(reject.floor_epoch)?,
            holder: match reject.holder {
                Some(member) => Some(Holder {
                    member: MemberId(member),
                    remaining: duration(reject.remaining_ns)?,
                }),
                None => None,
            },
        },
    };
    Some(Message {
        cell: CellId(u128::from(wire.cell_high) << 64 | u128::from(wire.cell_low)),
        view: number(wire.view)?,
        ballot: Ballot {
            counter: number(wire.ballot_counter)?,
            member: MemberId(wire.ballot_member),
        },
        round: number(wire.round)?,
        body,
    })
}

const fn number(value: u64) -> Option<u64> {
    if value <= NUMBER_MAX {
        Some(value)
    } else {
        None
    }
}

fn duration(nanos: u64) -> Option<Duration> {
    let duration = Duration::from_nanos(nanos);
    (duration <= DURATION_MAX).then_some(duration)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(body: Body) -> Message {
        Message {
            cell: CellId(0x0123_4567_89ab_cdef_0011_2233_4455_6677),
            view: 3,
            ballot: Ballot {
                counter: 9,
                member: MemberId(2),
            },
            round: 77,
            body,
        }
    }

    #[test]
    fn every_message_survives_the_wire() {
        let holder = Holder {
            member: MemberId(1),
            remaining: Duration::from_millis(7),
        };
        let bodies = [
            Body::Prepare,
            Body::Promise { floor_epoch: 4 },
            Body::Accept {
                epoch: 5,
                ttl: Duration::from_millis(1500),
                renewal: true,
                successor: None,
            },
            Body::Accept {
                epoch: 5,
                ttl: Duration::ZERO,
                renewal: false,
                successor: Some(MemberId(3)),
            },
            Body::Accepted { epoch: 5 },
            Body::Reject {
                promised: Ballot {
                    counter: 8,
                    member: MemberId(1),
                },
                view: 4,
                floor_epoch: 6,
                holder: Some(holder),
            },
            Body::Reject {
                promised: Ballot::default(),
                view: 0,
                floor_epoch: 0,
                holder: None,
            },
        ];
        for body in bodies {
            let sent = message(body);
            assert_eq!(decode(&encode(&sent)), Some(sent));
        }
    }

    #[test]
    fn unbelievable_numbers_and_empty_messages_are_refused() {
        let sound = encode(&message(Body::Prepare));
        let huge_ttl = encode(&message(Body::Accept {
            epoch: 1,
            ttl: Duration::from_secs(1_000_000),
            renewal: false,
            successor: None,
        }));
        let huge_epoch = encode(&message(Body::Accepted { epoch: u64::MAX }));
        let huge_counter = peer::LeaseMessage {
            ballot_counter: u64::MAX,
            ..sound.clone()
        };
        let empty = peer::LeaseMessage {
            body: None,
            ..sound
        };

        for wire in [huge_ttl, huge_epoch, huge_counter, empty] {
            assert_eq!(decode(&wire), None, "{wire:?}");
        }
    }
}
