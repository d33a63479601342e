//! What object servers report, and the map they get for it.

use std::sync::Arc;

use mrc_core::{IndexError, Reply, query};
use proto::index::command::Op as Change;
use proto::mrc::{self, Response, response};
use shell::link::Responder;
use types::OsdId;

use crate::consensus::LeaderId;
use crate::door::{Service, answer, index_fault};
use crate::log_writer::lock;

impl Service {
    /// Takes a report and answers with the map, if it has changed.
    pub(crate) fn heartbeat(
        self: &Arc<Self>,
        leader: LeaderId,
        beat: mrc::OsdHeartbeat,
        responder: Responder,
    ) {
        let index = Arc::clone(self.node.index());
        let known = match query::osd(&*index, OsdId(beat.osd)) {
            Ok(known) => known,
            Err(error) => return responder.fault(index_fault(&error)),
        };
        let timeout = self.config.osd_timeout();
        if let Err(fault) = self.osds.admit(&beat, known.as_ref(), leader, timeout) {
            return responder.fault(fault);
        }
        let registration = match mrc_core::registration(&*index, &beat) {
            Ok(registration) => registration,
            Err(error) => return responder.fault(index_fault(&error)),
        };
        self.osds.heard(&beat);
        let service = Arc::clone(self);
        if let Some(register) = registration {
            let command = mrc_core::internal(Change::RegisterOsd(register), self.node.now());
            return self.node.propose(&command, move |reply| {
                answer(responder, reply.and_then(|_| service.osd_map(&beat)));
            });
        }
        if let Err(error) = self.note_full(&beat) {
            return responder.fault(index_fault(&error));
        }
        answer(responder, self.osd_map(&beat));
    }

    /// Proposes what clears the marks of groups that this server has whole again, or in a new view.
    fn note_full(&self, beat: &mrc::OsdHeartbeat) -> Result<(), IndexError> {
        let map = self.map.get(&**self.node.index())?;
        let marked = map
            .whole
            .pgs
            .iter()
            .filter(|pg| pg.incomplete.contains(&beat.osd) || pg.settling.contains(&beat.osd));
        for pg in marked {
            let full = beat.pgs.iter().any(|report| {
                (report.volume, report.pg, report.view) == (pg.volume, pg.pg, pg.view)
                    && report.state() == mrc::PgState::PgFull
            });
            if full {
                let op = Change::PgFull(proto::index::PgFull {
                    volume: pg.volume,
                    pg: pg.pg,
                    view: pg.view,
                    osd: beat.osd,
                    store_uuid: beat.store_uuid.clone(),
                });
                // Repeated with the next heartbeat if it fails.
                self.node
                    .propose(&mrc_core::internal(op, self.node.now()), |_| {});
            }
        }
        Ok(())
    }

    fn osd_map(&self, beat: &mrc::OsdHeartbeat) -> Reply {
        let map = self
            .map
            .get(&**self.node.index())
            .map_err(|error| index_fault(&error))?;
        let wall_ns = shell::clock::wall().0;
        let mrcs = self.node.voter_addresses();
        self.osds.told(OsdId(beat.osd), &mrcs);
        let pacing = lock(&self.pacing).clone();
        let pace = pacing.map(|pacing| pacing.of(OsdId(beat.osd)));
        // What is being restored is nothing to go by yet.
        let restored = query::restored(&**self.node.index());
        let restored = restored.map_err(|error| index_fault(&error))?;
        let incoming = restored.restored && !restored.finished;
        let answer = if map.version == beat.map_version || incoming {
            mrc::OsdMap {
                version: map.version,
                wall_ns,
                mrcs,
                pace,
                ..mrc::OsdMap::default()
            }
        } else {
            mrc::OsdMap {
                changed: true,
                wall_ns,
                mrcs,
                pace,
                ..map.whole.clone()
            }
        };
        Ok(Response {
            reply: Some(response::Reply::OsdMap(answer)),
        })
    }
}
