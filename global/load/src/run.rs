//! Clients that write in a closed loop, and what they saw.
use crate::Load;
use anyhow::{Context as _, Result, ensure};
use serde::Serialize;
use std::{
    future::Future,
    time::{Duration, Instant},
};
use tokio::task::JoinSet;

/// A store that takes writes.
pub trait Store {
    type Client: Client;
    /// The client of this number, connected.
    fn client(&self, number: usize) -> impl Future<Output = Result<Self::Client>> + Send;
}

pub trait Client: Send + 'static {
    /// Returns when the write is acknowledged. No two numbers write the same value.
    fn write(&mut self, number: u64) -> impl Future<Output = Result<()>> + Send;
}

/// What was measured, times in milliseconds.
#[derive(Debug, Serialize)]
pub struct Measured {
    pub count: usize,
    pub seconds: f64,
    pub per_second: f64,
    pub mean_ms: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub max_ms: f64,
    pub failed: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_failure: Option<String>,
}

impl Measured {
    pub fn of(mut took: Vec<Duration>, within: Duration, failures: Vec<String>) -> Result<Measured> {
        let why = failures.first().map(String::as_str).unwrap_or("none was tried");
        ensure!(!took.is_empty(), "nothing was acknowledged: {why}");
        took.sort_unstable();
        let at = |share: f64| took[((took.len() - 1) as f64 * share).round() as usize].as_secs_f64() * 1e3;
        let sum: Duration = took.iter().sum();
        Ok(Measured {
            count: took.len(),
            seconds: within.as_secs_f64(),
            per_second: took.len() as f64 / within.as_secs_f64(),
            mean_ms: sum.as_secs_f64() * 1e3 / took.len() as f64,
            p50_ms: at(0.5),
            p99_ms: at(0.99),
            max_ms: at(1.0),
            failed: failures.len(),
            first_failure: failures.into_iter().next(),
        })
    }
}

/// Runs the load. A client that fails goes on; what was asked before the end of the time counts if it is acknowledged.
pub async fn run<S: Store>(load: &Load, store: &S) -> Result<Measured> {
    let mut clients = Vec::with_capacity(load.clients);
    for number in 0..load.clients {
        clients.push(store.client(number).await.with_context(|| format!("client {number}"))?);
    }
    let measured_from = Instant::now() + load.warm_up;
    let end = measured_from + load.seconds;
    let mut running = JoinSet::new();
    for mut client in clients {
        running.spawn(async move {
            let (mut took, mut failures) = (Vec::new(), Vec::new());
            for number in 0.. {
                let begin = Instant::now();
                if begin >= end {
                    break;
                }
                match client.write(number).await {
                    Ok(()) if begin >= measured_from => took.push(begin.elapsed()),
                    Ok(()) => {}
                    Err(error) => {
                        failures.push(format!("{error:#}"));
                        // A store that refuses everything is not to be flooded.
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                }
            }
            (took, failures)
        });
    }
    let (mut took, mut failures) = (Vec::new(), Vec::new());
    while let Some(client) = running.join_next().await {
        let (some, failed) = client?;
        took.extend(some);
        failures.extend(failed);
    }
    Measured::of(took, measured_from.elapsed(), failures)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_the_sorted_times() {
        let took = (1..=101).rev().map(Duration::from_millis).collect();
        let measured = Measured::of(took, Duration::from_secs(2), vec!["why".to_owned()]).expect("some");
        assert_eq!((measured.p50_ms, measured.p99_ms, measured.max_ms), (51.0, 100.0, 101.0));
        assert_eq!(measured.mean_ms, 51.0);
        assert_eq!((measured.count, measured.per_second, measured.failed), (101, 50.5, 1));
        let none = Measured::of(Vec::new(), Duration::from_secs(2), vec!["why".to_owned()]);
        assert!(none.expect_err("nothing").to_string().contains("why"));
    }
}
