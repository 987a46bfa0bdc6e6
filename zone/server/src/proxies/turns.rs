//! Whose turn it is: the proxies of one worker of which something is new, the most urgent first.
//!
//! ```text
//! arrival   its Envoy waits with nothing
//! expiry    its certificate is about to end
//! endpoints it may send to one that is gone
//! rest      a policy, for example: of all proxies at once, perhaps
//! ```
//!
//! A proxy waits at most once in each rank, since its slot says when it has to be called again: what waits is bounded by
//! the proxies. A worker is an arbiter, and there are as many as cores: a change of everybody's configuration keeps nobody
//! waiting who has just come.
use super::{ProxyActor, Wake};
use actix::{Addr, ArbiterHandle};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use tokio::sync::Notify;

/// How urgent it is, the most urgent first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    Arrival,
    Expiry,
    Endpoints,
    Rest,
}

const RANKS: usize = Urgency::Rest as usize + 1;

/// Who waits, in the order of urgency and then of coming.
#[derive(Debug)]
struct Turns<T>([VecDeque<T>; RANKS]);

impl<T> Default for Turns<T> {
    fn default() -> Self {
        Turns(std::array::from_fn(|_| VecDeque::new()))
    }
}

impl<T> Turns<T> {
    fn push(&mut self, urgency: Urgency, one: T) {
        self.0[urgency as usize].push_back(one);
    }

    fn pop(&mut self) -> Option<T> {
        let next = self.0.iter_mut().find_map(VecDeque::pop_front);
        if next.is_none() {
            // After a storm: nothing is kept of its length.
            *self = Turns::default();
        }
        next
    }
}

/// An arbiter, and those of its actors that are to look at what is new.
#[derive(Clone)]
pub struct Worker {
    arbiter: ArbiterHandle,
    line: Arc<Line>,
}

#[derive(Default)]
struct Line {
    turns: Mutex<Turns<Addr<ProxyActor>>>,
    filled: Notify,
}

impl Worker {
    /// Starts to give turns on this arbiter, until it stops.
    pub fn start(arbiter: ArbiterHandle) -> Worker {
        let worker = Worker { arbiter, line: Arc::default() };
        // An arbiter that has stopped gives no turns, and nobody is on it.
        worker.arbiter.spawn(worker.line.clone().run());
        worker
    }

    pub fn arbiter(&self) -> &ArbiterHandle {
        &self.arbiter
    }

    pub fn call(&self, urgency: Urgency, proxy: Addr<ProxyActor>) {
        self.line.turns.lock().unwrap_or_else(PoisonError::into_inner).push(urgency, proxy);
        self.line.filled.notify_one();
    }
}

impl Line {
    async fn run(self: Arc<Self>) {
        loop {
            let next = self.turns.lock().unwrap_or_else(PoisonError::into_inner).pop();
            match next {
                Some(proxy) => {
                    proxy.do_send(Wake::Latest);
                    behind_all_others().await;
                }
                None => self.filled.notified().await,
            }
        }
    }
}

/// Lets the actor have its turn before the next one is chosen, without a look at the sockets in between.
async fn behind_all_others() {
    let mut waited = false;
    poll_fn(|context| {
        if std::mem::replace(&mut waited, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_urgent_is_next_and_of_two_the_one_that_came_first() {
        let mut turns = Turns::default();
        for proxy in ["policy-1", "policy-2", "policy-3"] {
            turns.push(Urgency::Rest, proxy);
        }
        assert_eq!(turns.pop(), Some("policy-1"));
        turns.push(Urgency::Endpoints, "endpoints");
        turns.push(Urgency::Expiry, "expiry");
        turns.push(Urgency::Arrival, "arrival-1");
        turns.push(Urgency::Arrival, "arrival-2");
        let rest: Vec<_> = std::iter::from_fn(|| turns.pop()).collect();
        assert_eq!(rest, ["arrival-1", "arrival-2", "expiry", "endpoints", "policy-2", "policy-3"]);
        assert!(turns.0.iter().all(|rank| rank.capacity() == 0));
    }
}
