//! How fast a dead leader is noticed.
use std::time::Duration;

/// The clocks of voters. All voters of a cluster should have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// How often the leader speaks. Also how long openraft waits for one append.
    pub heartbeat: Duration,
    /// A leader that was not heard of for so long counts as dead. Must be several heartbeats.
    pub silence: Duration,
    /// A node stands for election after the silence and up to so much more, at random, so that few stand together.
    pub spread: Duration,
}

impl Default for Timing {
    /// For voters within a few milliseconds of each other.
    fn default() -> Timing {
        Timing {
            heartbeat: Duration::from_millis(50),
            silence: Duration::from_millis(250),
            spread: Duration::from_millis(150),
        }
    }
}

impl Timing {
    /// For voters that need this longest election timeout; an eighth of it is the heartbeat.
    pub fn of_election(timeout: Duration) -> Timing {
        Timing { heartbeat: timeout / 8, silence: timeout * 5 / 8, spread: timeout * 3 / 8 }
    }

    /// openraft's settings. Its own elections are off: [`crate::elections`] decides. Its lease ends a heartbeat before the
    /// silence does, so that whoever stands for election is not refused for a leader that is gone.
    pub(crate) fn apply(&self, config: openraft::Config) -> openraft::Config {
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).max(1);
        let lease = millis(self.silence.saturating_sub(self.heartbeat)).max(millis(self.heartbeat) + 2);
        openraft::Config {
            heartbeat_interval: millis(self.heartbeat),
            election_timeout_min: lease - 1,
            election_timeout_max: lease,
            enable_elect: false,
            ..config
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lease_ends_before_the_silence() {
        for timing in [Timing::default(), Timing::of_election(Duration::from_secs(4))] {
            let config = timing.apply(shared_raft::config()).validate().expect("a good configuration");
            assert!(Duration::from_millis(config.election_timeout_max) < timing.silence);
            assert!(!config.enable_elect);
        }
        assert_eq!(Timing::of_election(Duration::from_millis(400)), Timing::default());
    }
}
