//! Many requests, and what came back; and whether a share of them is what a policy asked for.
use crate::{app::Echo, http::Connection};
use std::{collections::BTreeMap, fmt, net::SocketAddr};

/// Requests that are under way at once. More would only queue on a small machine.
const LANES: usize = 4;

/// Counts of a series of requests. Status 0: no answer at all, the connection was refused or closed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub total: u64,
    pub statuses: BTreeMap<u16, u64>,
    /// Of the answers 200, by `service version zone` of the application that gave them.
    pub answered_by: BTreeMap<(String, String, String), u64>,
}

impl Tally {
    pub fn status(&self, status: u16) -> u64 {
        self.statuses.get(&status).copied().unwrap_or(0)
    }

    /// Answers that an application of this version gave.
    pub fn version(&self, version: &str) -> u64 {
        self.answered_by.iter().filter(|((_, v, _), _)| v == version).map(|(_, n)| n).sum()
    }

    /// Answers that applications of this zone gave.
    pub fn zone(&self, zone: &str) -> u64 {
        self.answered_by.iter().filter(|((_, _, z), _)| z == zone).map(|(_, n)| n).sum()
    }

    pub fn all_are(&self, status: u16) -> bool {
        self.total > 0 && self.status(status) == self.total
    }

    pub fn count(&mut self, status: u16, body: &[u8]) {
        self.total += 1;
        *self.statuses.entry(status).or_default() += 1;
        if status == 200 {
            let echo: Echo = serde_json::from_slice(body).unwrap_or_default();
            *self.answered_by.entry((echo.service, echo.version, echo.zone)).or_default() += 1;
        }
    }

    pub fn add(&mut self, other: Tally) {
        self.total += other.total;
        for (status, n) in other.statuses {
            *self.statuses.entry(status).or_default() += n;
        }
        for (who, n) in other.answered_by {
            *self.answered_by.entry(who).or_default() += n;
        }
    }
}

impl fmt::Display for Tally {
    /// `1000 requests: 897 x 200 (backend v1 of zone-1: 897), 103 x 418`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} requests:", self.total)?;
        for (i, (status, n)) in self.statuses.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            match status {
                0 => write!(f, "{comma} {n} without an answer")?,
                _ => write!(f, "{comma} {n} x {status}")?,
            }
            if *status == 200 {
                let who: Vec<String> =
                    self.answered_by.iter().map(|((s, v, z), n)| format!("{n} by {s} {v} of {z}")).collect();
                write!(f, " ({})", who.join(", "))?;
            }
        }
        Ok(())
    }
}

/// Sends `count` GETs, a few at a time, each lane on a connection that it keeps as long as the other side does.
pub async fn series(address: SocketAddr, path: &str, count: u64) -> Tally {
    let lanes = (count as usize).clamp(1, LANES) as u64;
    let tasks: Vec<_> = (0..lanes)
        .map(|lane| {
            let share = count / lanes + u64::from(lane < count % lanes);
            let path = path.to_owned();
            tokio::spawn(async move { one_after_the_other(address, &path, share).await })
        })
        .collect();
    let mut sum = Tally::default();
    for task in tasks {
        if let Ok(tally) = task.await {
            sum.add(tally);
        }
    }
    sum
}

async fn one_after_the_other(address: SocketAddr, path: &str, count: u64) -> Tally {
    let mut tally = Tally::default();
    let mut kept: Option<Connection> = None;
    for _ in 0..count {
        if kept.as_ref().is_none_or(Connection::is_closed) {
            kept = Connection::open(address).await.ok();
        }
        let answer = match &mut kept {
            Some(connection) => connection.get(path).await.ok(),
            None => None,
        };
        match answer {
            Some(answer) => tally.count(answer.status, &answer.body),
            None => {
                tally.count(0, b"");
                kept = None;
            }
        }
    }
    tally
}

/// True when `hits` of `of` lie within three standard deviations of what the probability `p` lets expect.
pub fn is_within_three_deviations(hits: u64, of: u64, p: f64) -> bool {
    let expected = of as f64 * p;
    (hits as f64 - expected).abs() <= 3.0 * (expected * (1.0 - p)).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_deviations_are_measured_from_the_expected_count() {
        // 1,000 at 10 %: the deviation is 9.49, three are 28.5.
        assert!(is_within_three_deviations(128, 1000, 0.1));
        assert!(!is_within_three_deviations(129, 1000, 0.1));
        assert!(is_within_three_deviations(72, 1000, 0.1));
        assert!(!is_within_three_deviations(71, 1000, 0.1));
        assert!(is_within_three_deviations(0, 1000, 0.0));
        assert!(!is_within_three_deviations(1, 1000, 0.0));
    }

    #[test]
    fn a_tally_tells_who_answered() {
        let mut tally = Tally::default();
        tally.count(200, br#"{"service":"backend","version":"v1","zone":"zone-1","path":"/"}"#);
        tally.count(503, b"no");
        assert_eq!((tally.version("v1"), tally.version("v2"), tally.zone("zone-1")), (1, 0, 1));
        assert_eq!(tally.to_string(), "2 requests: 1 x 200 (1 by backend v1 of zone-1), 1 x 503");
        assert!(!tally.all_are(200));
    }
}
