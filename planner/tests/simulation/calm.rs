//! After the faults: everything must become as it should be, and stay so.

use planner::{State, Wish};
use types::OsdId;

use crate::world::World;

/// Rounds within which everything must have healed. 2000: 14 groups need up to 10 changes each, two
/// at a time, of some 20 rounds.
const ROUNDS_MAX: usize = 2000;

/// Rounds without an act that show that none will come. 60: over an hour, so that grace times pass.
const QUIET_ROUNDS: usize = 60;

impl World {
    /// Stops the faults, makes sure that there are enough servers, and waits for quiet. Returns the
    /// rounds it took.
    pub(crate) fn calm(&mut self) -> Result<usize, String> {
        self.writing = false;
        // Full disks stay full, and one server goes on to get nowhere if the groups can do without it.
        let mut ill = std::mem::take(&mut self.ill).into_iter();
        let ill = ill.find(|osd| self.is_up(*osd) && self.is_expendable(*osd));
        self.ill.extend(ill);
        let down: Vec<OsdId> = self.picture.servers.keys().copied().collect();
        // Both together would be more than one fault.
        let mut spared = ill.is_none() && self.rng.once_in(2);
        for osd in down {
            if self.is_up(osd) {
                continue;
            }
            // One stays dead, if the groups can do without it.
            if spared && self.is_expendable(osd) {
                spared = false;
            } else {
                self.bring_back(osd);
            }
        }
        for location in ["v/r1/h1", "w/r1/h1", "x/r1/h1", "y/r1/h1"] {
            self.add_server(location, 10_000);
        }
        let mut last_act = 0;
        for round in 1..=ROUNDS_MAX {
            if self.step()? > 0 {
                last_act = round;
            }
            if round >= last_act + QUIET_ROUNDS {
                self.report_free(1);
                self.check_healed()?;
                return Ok(last_act);
            }
        }
        Err(format!("acts still come after {ROUNDS_MAX} rounds"))
    }

    fn check_healed(&self) -> Result<(), String> {
        for (key, group) in &self.picture.groups {
            let sound =
                |osd: &OsdId| {
                    self.picture.servers.get(osd).is_some_and(|server| {
                        server.state == State::Up && server.wish == Wish::Keep
                    }) && self.data[key].is_current(*osd)
                };
            let good = group.previous.is_empty()
                && group.members.len() == group.replicas
                && group.members.iter().all(sound);
            if !good {
                return Err(format!("{key} is not healed: {group:?}"));
            }
        }
        let report = planner::plan(&self.picture, self.now, &self.limits).report;
        if report.healthy_count != self.picture.groups.len() || !report.notes.is_empty() {
            return Err(format!("healed, but reported as {report:?}"));
        }
        if report.draining.values().any(|left| left.groups_count > 0) {
            return Err(format!("drained servers hold groups: {report:?}"));
        }
        Ok(())
    }
}
