//! The lease as replicas see it: exclusive in true time, with growing epochs, and forgetful.
//!
//! The real protocol is proved in its own crate; here it only has to be as unhelpful as allowed.

pub(crate) const MS: u64 = 1_000_000;
pub(crate) const TTL: u64 = 1_500 * MS;
/// How long the holder believes in it: shorter, for drift.
pub(crate) const USED: u64 = TTL - TTL / 50;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Holder {
    pub(crate) node: usize,
    pub(crate) epoch: u64,
    pub(crate) expires: u64,
}

#[derive(Debug)]
pub(crate) struct LeaseModel {
    pub(crate) holder: Option<Holder>,
    /// Highest epoch each member remembers; lost when it crashes.
    pub(crate) floors: Vec<u64>,
}

pub(crate) enum Outcome {
    Granted { epoch: u64, newborn: bool },
    Taken { node: usize, remaining: u64 },
    NoQuorum,
}

impl LeaseModel {
    pub(crate) fn new(nodes: usize) -> Self {
        Self {
            holder: None,
            floors: vec![0; nodes],
        }
    }

    pub(crate) fn acquire(
        &mut self,
        now: u64,
        node: usize,
        voters: &[usize],
        (newborn, floor, boot): (bool, u64, u64),
    ) -> Outcome {
        if let Some(holder) = self.holder.filter(|holder| holder.expires > now)
            && holder.node != node
        {
            return Outcome::Taken {
                node: holder.node,
                remaining: holder.expires - now,
            };
        }
        let known = voters.iter().map(|member| self.floors[*member]).max();
        let known = known.unwrap_or(0);
        let newborn = newborn && known == 0;
        let epoch = match newborn {
            true => boot,
            false => known.max(floor).max(1) + 1,
        };
        for member in voters {
            self.floors[*member] = epoch;
        }
        self.holder = Some(Holder {
            node,
            epoch,
            expires: now + TTL,
        });
        Outcome::Granted { epoch, newborn }
    }

    pub(crate) fn renew(&mut self, now: u64, node: usize) -> Option<u64> {
        let holder = self.holder.as_mut()?;
        let mine = holder.node == node && holder.expires > now;
        mine.then(|| {
            holder.expires = now + TTL;
            holder.epoch
        })
    }

    pub(crate) fn release(&mut self, node: usize) {
        self.holder.take_if(|holder| holder.node == node);
    }
}
