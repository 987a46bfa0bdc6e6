//! Waiting for a condition, with a deadline. Nothing here sleeps and hopes.
use anyhow::{Result, anyhow};
use std::{
    fmt,
    future::Future,
    time::{Duration, Instant},
};

/// How long a condition may take before it counts as failed: generous, for two slow cores that also compile.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// An error that no waiting heals, such as a process that has ended: [`until`] gives up at once.
#[derive(Debug)]
pub struct Hopeless(pub String);

impl fmt::Display for Hopeless {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Hopeless {}

/// Looks at `check` until it succeeds, for at most [`PATIENCE`]. The error tells what was waited for, and what the last
/// look saw.
pub async fn until<T, F, Fut>(what: &str, check: F) -> Result<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T>>,
{
    until_within(PATIENCE, what, check).await
}

pub async fn until_within<T, F, Fut>(patience: Duration, what: &str, mut check: F) -> Result<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T>>,
{
    let start = Instant::now();
    loop {
        let seen = match check().await {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        if seen.downcast_ref::<Hopeless>().is_some() {
            return Err(anyhow!("waited for {what}: {seen:#}"));
        }
        if start.elapsed() >= patience {
            return Err(anyhow!("waited {} s for {what}: {seen:#}", patience.as_secs()));
        }
        tokio::time::sleep(LOOK).await;
    }
}
