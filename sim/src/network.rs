//! A network that loses, repeats, delays and reorders messages, and whose directions can be cut.

use std::collections::BTreeSet;

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use types::{Duration, MemberId};

/// How bad the network is.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Weather {
    /// Messages lost, in percent.
    pub loss_percent: u32,
    /// Messages that arrive twice or three times, in percent.
    pub duplicate_percent: u32,
    /// Longest ordinary delay. Delays are drawn anew for each message, so messages overtake.
    pub delay_max: Duration,
    /// Messages that take much longer, in percent.
    pub straggler_percent: u32,
    /// Longest delay of these.
    pub straggler_max: Duration,
}

impl Weather {
    /// Nothing is lost, everything arrives within a millisecond.
    pub const FAIR: Self = Self {
        loss_percent: 0,
        duplicate_percent: 0,
        delay_max: Duration::from_millis(1),
        straggler_percent: 0,
        straggler_max: Duration::ZERO,
    };

    /// Draws some weather, from fair to foul.
    pub fn draw(rng: &mut ChaCha8Rng) -> Self {
        let delay_max = [1, 1, 5, 20, 100, 400][rng.random_range(0..6)];
        Self {
            loss_percent: [0, 0, 5, 20, 40][rng.random_range(0..5)],
            duplicate_percent: [0, 10, 50][rng.random_range(0..3)],
            delay_max: Duration::from_millis(delay_max),
            straggler_percent: [0, 2, 10][rng.random_range(0..3)],
            straggler_max: Duration::from_millis(rng.random_range(100..4000)),
        }
    }
}

/// Who reaches whom, and how well.
#[derive(Debug)]
pub struct Network {
    /// The present weather.
    pub weather: Weather,
    cuts: BTreeSet<(MemberId, MemberId)>,
}

impl Default for Network {
    fn default() -> Self {
        Self {
            weather: Weather::FAIR,
            cuts: BTreeSet::new(),
        }
    }
}

impl Network {
    /// Cuts one direction.
    pub fn cut(&mut self, from: MemberId, to: MemberId) {
        self.cuts.insert((from, to));
    }

    /// Mends one direction.
    pub fn mend(&mut self, from: MemberId, to: MemberId) {
        self.cuts.remove(&(from, to));
    }

    /// Mends everything and clears the sky.
    pub fn heal(&mut self) {
        *self = Self::default();
    }

    /// Draws what becomes of a message: the delays of its copies, none if it is lost.
    pub fn route(&self, from: MemberId, to: MemberId, rng: &mut ChaCha8Rng) -> Vec<Duration> {
        let weather = &self.weather;
        if self.cuts.contains(&(from, to)) || percent(rng, weather.loss_percent) {
            return Vec::new();
        }
        let copies = match percent(rng, weather.duplicate_percent) {
            true => rng.random_range(2..=3),
            false => 1,
        };
        (0..copies).map(|_| self.delay(rng)).collect()
    }

    fn delay(&self, rng: &mut ChaCha8Rng) -> Duration {
        let weather = &self.weather;
        let longest = match percent(rng, weather.straggler_percent) {
            true => weather.straggler_max,
            false => weather.delay_max,
        };
        // 50 us: nothing is faster than a socket.
        Duration::from_micros(50) + Duration::from_nanos(rng.random_range(0..=longest.as_nanos()))
    }
}

/// Draws yes with a probability in percent.
pub fn percent(rng: &mut ChaCha8Rng, probability: u32) -> bool {
    probability > 0 && rng.random_range(0..100) < probability
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn a_cut_is_one_way_and_can_be_mended() {
        let (a, b) = (MemberId(1), MemberId(2));
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut network = Network::default();

        network.cut(a, b);
        assert!(network.route(a, b, &mut rng).is_empty());
        assert_eq!(network.route(b, a, &mut rng).len(), 1);
        network.mend(a, b);
        assert_eq!(network.route(a, b, &mut rng).len(), 1);
    }

    #[test]
    fn foul_weather_loses_repeats_and_reorders() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let network = Network {
            weather: Weather {
                loss_percent: 30,
                duplicate_percent: 30,
                delay_max: Duration::from_millis(10),
                straggler_percent: 5,
                straggler_max: Duration::from_millis(1000),
            },
            ..Network::default()
        };

        let routes: Vec<_> = (0..1000)
            .map(|_| network.route(MemberId(1), MemberId(2), &mut rng))
            .collect();

        assert!(routes.iter().any(Vec::is_empty));
        assert!(routes.iter().any(|copies| copies.len() > 1));
        assert!(
            routes
                .iter()
                .flatten()
                .any(|delay| *delay > Duration::from_millis(100))
        );
    }
}
