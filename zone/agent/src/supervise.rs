//! Supervision: what happens to Envoy when someone asks, and when it ends.
//!
//! ```text
//!             asked                     quiet, or drain time over,       not gone in time
//!             (SIGTERM, SIGINT)         or asked again, or no admin
//!   Running ------------------> Draining ------------------------> Ending ------------> Killed
//!      |            drain                        SIGTERM              |      SIGKILL
//!      +---- other signals are passed on          asked again: SIGKILL+
//!
//! ended, in any state --> the exit code
//! ```
//! [`Supervision`] decides and knows no process; [`run`] does what it says.
use crate::admin::Admin;
use anyhow::{Context, Result};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    os::unix::process::ExitStatusExt,
    process::ExitStatus,
    time::{Duration, Instant},
};
use tokio::{
    process::Child,
    signal::unix::{Signal as Signals, SignalKind, signal},
    sync::mpsc,
};

/// How long Envoy may take to end after SIGTERM; it takes some milliseconds.
const END_WITHIN: Duration = Duration::from_secs(5);
/// How often the open connections are counted during a drain.
const COUNT_EVERY: Duration = Duration::from_millis(250);
/// So many counts of nothing in a row are quiet: a caller that reconnects is seen.
const QUIET_COUNTS: u32 = 2;

/// All that can happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Someone wants the end.
    Asked,
    /// A signal that is Envoy's business.
    Other(Signal),
    /// So many connections are open.
    Connections(u64),
    /// Envoy cannot be told to drain.
    CannotDrain,
    /// The deadline of the state is over.
    Deadline,
}

/// What is to be done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    Drain,
    Send(Signal),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Running,
    Draining { until: Instant, quiet: u32 },
    Ending { until: Instant },
    Killed,
}

/// The life of one Envoy.
#[derive(Clone, Debug)]
pub struct Supervision {
    phase: Phase,
    drain_time: Duration,
}

impl Supervision {
    pub fn new(drain_time: Duration) -> Self {
        Supervision { phase: Phase::Running, drain_time }
    }

    /// When [`Event::Deadline`] is due.
    pub fn deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::Draining { until, .. } | Phase::Ending { until } => Some(until),
            Phase::Running | Phase::Killed => None,
        }
    }

    /// True when Envoy's end was asked for.
    pub fn is_asked(&self) -> bool {
        self.phase != Phase::Running
    }

    pub fn handle(&mut self, event: Event, now: Instant) -> Option<Effect> {
        match (self.phase, event) {
            (Phase::Running, Event::Asked) if self.drain_time.is_zero() => Some(self.end(now)),
            (Phase::Running, Event::Asked) => {
                self.phase = Phase::Draining { until: now + self.drain_time, quiet: 0 };
                Some(Effect::Drain)
            }
            (Phase::Draining { .. }, Event::Asked | Event::Deadline | Event::CannotDrain) => {
                Some(self.end(now))
            }
            (Phase::Draining { quiet, .. }, Event::Connections(0)) if quiet + 1 >= QUIET_COUNTS => {
                Some(self.end(now))
            }
            (Phase::Draining { until, quiet }, Event::Connections(open)) => {
                self.phase = Phase::Draining { until, quiet: if open == 0 { quiet + 1 } else { 0 } };
                None
            }
            (Phase::Ending { .. }, Event::Asked | Event::Deadline) => {
                self.phase = Phase::Killed;
                Some(Effect::Send(Signal::SIGKILL))
            }
            (Phase::Running | Phase::Draining { .. }, Event::Other(signal)) => Some(Effect::Send(signal)),
            _ => None,
        }
    }

    fn end(&mut self, now: Instant) -> Effect {
        self.phase = Phase::Ending { until: now + END_WITHIN };
        Effect::Send(Signal::SIGTERM)
    }
}

/// The signals that this program answers.
pub struct Inbox {
    terminate: Signals,
    interrupt: Signals,
    others: Vec<(Signal, Signals)>,
}

impl Inbox {
    /// From here on these signals no longer end the program by themselves.
    pub fn open() -> Result<Inbox> {
        let listen = |kind: SignalKind| signal(kind).context("cannot listen to signals");
        let other = |kind, name| Ok::<_, anyhow::Error>((name, listen(kind)?));
        Ok(Inbox {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            others: vec![
                other(SignalKind::hangup(), Signal::SIGHUP)?,
                other(SignalKind::user_defined1(), Signal::SIGUSR1)?,
                other(SignalKind::user_defined2(), Signal::SIGUSR2)?,
                other(SignalKind::quit(), Signal::SIGQUIT)?,
            ],
        })
    }

    /// The next signal that asks for the end.
    pub async fn asked(&mut self) -> Signal {
        tokio::select! {
            _ = self.terminate.recv() => Signal::SIGTERM,
            _ = self.interrupt.recv() => Signal::SIGINT,
        }
    }

    async fn next(&mut self) -> Event {
        let Inbox { terminate, interrupt, others } = self;
        let any_other = std::future::poll_fn(|context| {
            let ready = others
                .iter_mut()
                .find_map(|(name, signals)| signals.poll_recv(context).is_ready().then_some(*name));
            ready.map_or(std::task::Poll::Pending, std::task::Poll::Ready)
        });
        tokio::select! {
            _ = terminate.recv() => Event::Asked,
            _ = interrupt.recv() => Event::Asked,
            other = any_other => Event::Other(other),
        }
    }
}

/// Stays with Envoy until it has ended, and gives its exit code.
pub async fn run(
    mut child: Child,
    admin: Option<Admin>,
    mut inbox: Inbox,
    drain_time: Duration,
) -> Result<u8> {
    let mut supervision = Supervision::new(drain_time);
    let pid = child
        .id()
        .and_then(|id| i32::try_from(id).ok())
        .map(Pid::from_raw)
        .context("Envoy has no process id")?;
    // One event waits at most: whoever counts connections waits for the supervision, not the other way round.
    let (tell, mut told) = mpsc::channel(1);
    loop {
        let deadline = supervision.deadline();
        let event = tokio::select! {
            status = child.wait() => {
                let code = exit_code(status.context("cannot wait for Envoy")?);
                match (code, supervision.is_asked()) {
                    (code, true) => tracing::info!(code, "envoy ended"),
                    (code, false) => tracing::error!(code, "envoy ended by itself"),
                }
                return Ok(code);
            }
            event = inbox.next() => event,
            Some(event) = told.recv() => event,
            () = sleep_until(deadline) => Event::Deadline,
        };
        match supervision.handle(event, Instant::now()) {
            None => {}
            Some(Effect::Drain) => {
                tracing::info!(drain_time = %shared_model::Duration(drain_time), "envoy drains; a second signal ends it at once");
                tokio::spawn(drain(admin.clone(), tell.clone()));
            }
            Some(Effect::Send(signal)) => {
                match signal {
                    Signal::SIGKILL => tracing::warn!("envoy does not end, it is killed"),
                    signal => tracing::info!(%signal, "envoy is sent a signal"),
                }
                // The child was not waited for yet, so the number is still its own; it may have ended already.
                let _ = kill(pid, signal);
            }
        }
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

/// Starts the drain and reports how many connections are left, until nobody listens.
async fn drain(admin: Option<Admin>, tell: mpsc::Sender<Event>) {
    let Some(admin) = admin else {
        let _ = tell.send(Event::CannotDrain).await;
        return;
    };
    if let Err(error) = admin.drain().await {
        tracing::warn!("envoy cannot drain: {error:#}");
        let _ = tell.send(Event::CannotDrain).await;
        return;
    }
    loop {
        tokio::time::sleep(COUNT_EVERY).await;
        // A count that fails is no count: the drain time decides.
        if let Ok(open) = admin.connections().await {
            tracing::debug!(open, "envoy drains");
            if tell.send(Event::Connections(open)).await.is_err() {
                return;
            }
        }
    }
}

/// As shells tell it: 128 + N when signal N ended the process.
fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    u8::try_from(code).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DRAIN: Duration = Duration::from_secs(10);

    fn asked() -> (Supervision, Instant) {
        let now = Instant::now();
        let mut supervision = Supervision::new(DRAIN);
        assert_eq!(supervision.handle(Event::Asked, now), Some(Effect::Drain));
        assert_eq!(supervision.deadline(), Some(now + DRAIN));
        (supervision, now)
    }

    const TERM: Option<Effect> = Some(Effect::Send(Signal::SIGTERM));
    const KILL: Option<Effect> = Some(Effect::Send(Signal::SIGKILL));

    #[test]
    fn a_drain_ends_when_it_is_quiet() {
        let (mut supervision, now) = asked();
        for open in [3, 0, 1, 0] {
            assert_eq!(supervision.handle(Event::Connections(open), now), None);
        }
        assert_eq!(supervision.handle(Event::Connections(0), now), TERM);
        assert_eq!(supervision.handle(Event::Connections(0), now), None, "once is enough");
    }

    #[test]
    fn a_drain_ends_with_its_time_or_a_second_signal() {
        for event in [Event::Deadline, Event::Asked, Event::CannotDrain] {
            let (mut supervision, now) = asked();
            assert_eq!(supervision.handle(event, now), TERM, "{event:?}");
            assert_eq!(supervision.handle(Event::Deadline, now), KILL);
            assert_eq!(supervision.deadline(), None);
        }
    }

    #[test]
    fn a_third_signal_kills() {
        let (mut supervision, now) = asked();
        assert_eq!(supervision.handle(Event::Asked, now), TERM);
        assert_eq!(supervision.handle(Event::Asked, now), KILL);
    }

    #[test]
    fn without_drain_time_there_is_no_drain() {
        assert_eq!(Supervision::new(Duration::ZERO).handle(Event::Asked, Instant::now()), TERM);
    }

    #[test]
    fn other_signals_are_passed_on() {
        let hangup = Some(Effect::Send(Signal::SIGHUP));
        assert_eq!(Supervision::new(DRAIN).handle(Event::Other(Signal::SIGHUP), Instant::now()), hangup);
        let (mut supervision, now) = asked();
        assert_eq!(supervision.handle(Event::Other(Signal::SIGHUP), now), hangup);
        assert_eq!(supervision.deadline(), Some(now + DRAIN), "the drain goes on");
    }

    #[test]
    fn a_status_becomes_a_code() {
        assert_eq!(exit_code(ExitStatus::from_raw(0)), 0);
        assert_eq!(exit_code(ExitStatus::from_raw(3 << 8)), 3);
        assert_eq!(exit_code(ExitStatus::from_raw(9)), 137);
    }
}
