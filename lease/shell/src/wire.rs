//! Lease messages as they travel, and what is believed of those that arrive.

use bytes::{Buf as _, Bytes};
use lease::{Ballot, Body, Holder, Message};
use prost::Message as _;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, message, skip_field};
use proto::peer;
use types::{CellId, Duration, MemberId};

use crate::config::LEASE_MESSAGES_MAX;

/// Longest duration believed. One hour: lease times are seconds; more is nonsense.
const DURATION_MAX: Duration = Duration::from_secs(3600);
/// Highest epoch, counter or view believed, so that nothing a peer says can make ours overflow.
const NUMBER_MAX: u64 = 1 << 62;

/// Field number of `LeaseFrame.messages`.
const MESSAGES: u32 = 1;
/// What a message takes in a frame, about; only for reserving memory.
const MESSAGE_BYTES: usize = 56;

/// Why a frame is dropped.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum FrameError {
    /// It ends too early, or is no frame.
    #[error("the lease frame is cut short or damaged; run the same release on all servers")]
    Broken,
    /// It has too many messages.
    #[error(
        "the lease frame has more than {LEASE_MESSAGES_MAX} messages; run the same release on all servers"
    )]
    Overfull,
}

impl From<prost::DecodeError> for FrameError {
    fn from(_: prost::DecodeError) -> Self {
        Self::Broken
    }
}

/// What a frame says.
#[derive(Debug, Default, Eq, PartialEq)]
pub(crate) struct Heard {
    pub(crate) messages: Vec<Message>,
    /// How many more there were that are not believable.
    pub(crate) refused: usize,
}

/// A `peer::LeaseFrame` of these messages, written one by one without the list in between.
pub(crate) fn encode_frame(messages: &[Message]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(messages.len() * MESSAGE_BYTES);
    for message in messages {
        message::encode(MESSAGES, &encode(message), &mut frame);
    }
    frame
}

/// Reads a `peer::LeaseFrame`.
///
/// # Errors
///
/// If any of it is not decodable or there are too many messages: nothing of it is believed.
pub(crate) fn decode_frame(mut frame: Bytes) -> Result<Heard, FrameError> {
    let mut heard = Heard {
        messages: Vec::with_capacity((frame.len() / MESSAGE_BYTES).min(LEASE_MESSAGES_MAX) + 1),
        refused: 0,
    };
    while frame.has_remaining() {
        let (field, wire_type) = decode_key(&mut frame)?;
        if (field, wire_type) != (MESSAGES, WireType::LengthDelimited) {
            // Said by a later release.
            skip_field(wire_type, field, &mut frame, DecodeContext::default())?;
            continue;
        }
        let length = usize::try_from(decode_varint(&mut frame)?).unwrap_or(usize::MAX);
        if length > frame.remaining() {
            return Err(FrameError::Broken);
        }
        if heard.messages.len() + heard.refused >= LEASE_MESSAGES_MAX {
            return Err(FrameError::Overfull);
        }
        match decode(&peer::LeaseMessage::decode(frame.split_to(length))?) {
            Some(message) => heard.messages.push(message),
            None => heard.refused += 1,
        }
    }
    Ok(heard)
}

/// As it travels.
fn encode(message: &Message) -> peer::LeaseMessage {
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
fn decode(wire: &peer::LeaseMessage) -> Option<Message> {
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

    fn frame(bodies: &[Body]) -> Vec<Message> {
        bodies.iter().map(|body| message(*body)).collect()
    }

    /// The generated code is the model.
    #[test]
    fn frames_are_what_the_generated_code_makes_of_them() {
        let messages = frame(&[Body::Prepare, Body::Accepted { epoch: 5 }]);
        let model = peer::LeaseFrame {
            messages: messages.iter().map(encode).collect(),
        };

        let ours = encode_frame(&messages);

        assert_eq!(ours, model.encode_to_vec());
        let heard = decode_frame(ours.into()).unwrap();
        assert_eq!((heard.messages, heard.refused), (messages, 0));
        assert_eq!(decode_frame(Bytes::new()).unwrap(), Heard::default());
    }

    #[test]
    fn truncated_and_overfull_frames_are_refused_as_a_whole() {
        let whole = encode_frame(&frame(&[Body::Prepare, Body::Promise { floor_epoch: 9 }]));
        let first = encode_frame(&frame(&[Body::Prepare])).len();
        for cut in (1..whole.len()).filter(|cut| *cut != first) {
            let part = Bytes::copy_from_slice(&whole[..cut]);
            assert_eq!(decode_frame(part), Err(FrameError::Broken), "{cut}");
        }

        let full = frame(&vec![Body::Prepare; LEASE_MESSAGES_MAX]);
        assert!(decode_frame(encode_frame(&full).into()).is_ok());
        let overfull = frame(&vec![Body::Prepare; LEASE_MESSAGES_MAX + 1]);
        let refused = decode_frame(encode_frame(&overfull).into());
        assert_eq!(refused, Err(FrameError::Overfull));
    }

    #[test]
    fn noise_is_refused_without_a_panic_and_unknown_fields_are_passed_over() {
        let mut state = 1_u64;
        for length in 0..2000_usize {
            let noise: Vec<u8> = (0..length % 97)
                .map(|_| {
                    state = state
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1);
                    (state >> 56) as u8
                })
                .collect();
            // Whatever it is, it ends.
            drop(decode_frame(noise.into()));
        }

        let mut newer = encode_frame(&frame(&[Body::Prepare]));
        prost::encoding::uint64::encode(15, &77, &mut newer);
        assert_eq!(decode_frame(newer.into()).unwrap().messages.len(), 1);
    }

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
            ..sound
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
