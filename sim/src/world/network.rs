//! Links between members: delay, loss, duplication, reordering, cuts in one direction or both.
//!
//! A forwarded proposal is never delivered twice. The transport between members is streams, which repeat nothing, and a
//! proposal is the one message that raft takes at its word each time.

use std::collections::BTreeSet;

use kvorum_api::raftpb::{Message, MessageType};

use crate::random::Random;

/// How bad the network is now, in thousandths and milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    pub loss: u64,
    pub duplication: u64,
    /// Messages that take much longer than the others, and so arrive after later ones.
    pub stragglers: u64,
    pub delay_max: u64,
}

impl Weather {
    pub const FAIR: Self = Self { loss: 0, duplication: 0, stragglers: 0, delay_max: 4 };
}

pub struct Network {
    pub weather: Weather,
    /// Directed pairs of members that cannot hear each other.
    cuts: BTreeSet<(u64, u64)>,
}

impl Network {
    pub fn new() -> Self {
        Self { weather: Weather::FAIR, cuts: BTreeSet::new() }
    }

    pub fn cut(&mut self, from: u64, to: u64) {
        self.cuts.insert((from, to));
    }

    pub fn heal(&mut self) {
        self.cuts.clear();
    }

    pub fn is_cut(&self, from: u64, to: u64) -> bool {
        self.cuts.contains(&(from, to))
    }

    /// After how many milliseconds a message arrives, once for each copy; never, if it is lost.
    pub fn delays(&self, random: &mut Random, message: &Message) -> Vec<u64> {
        let (from, to) = (message.from.unwrap_or(0), message.to.unwrap_or(0));
        if self.is_cut(from, to) || random.chance(self.weather.loss) {
            return Vec::new();
        }
        let mut delays = vec![self.delay(random)];
        let is_proposal = message.r#type == Some(MessageType::MsgProp as i32);
        if !is_proposal && random.chance(self.weather.duplication) {
            delays.push(self.delay(random) + random.below(200));
        }
        delays
    }

    pub fn delay(&self, random: &mut Random) -> u64 {
        let usual = random.between(1, self.weather.delay_max + 1);
        if random.chance(self.weather.stragglers) { usual + random.below(1_500) } else { usual }
    }
}
