//! Where clients put their notes.
use super::{Did, Expected, Moment, Operation, Written};
use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

/// One clock for all clients of a history.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Instant);

impl Clock {
    pub fn now(&self) -> Moment {
        u64::try_from(self.0.elapsed().as_nanos()).expect("a test ends within five hundred years")
    }
}

/// The notes of all clients; a clone is the same notes.
#[derive(Clone, Debug)]
pub struct Recorder {
    pub clock: Clock,
    operations: Arc<Mutex<Vec<Operation>>>,
}

/// A write on its way.
#[derive(Debug)]
pub struct Pending(usize);

impl Default for Recorder {
    fn default() -> Recorder {
        Recorder { clock: Clock(Instant::now()), operations: Arc::default() }
    }
}

impl Recorder {
    pub fn note(&self, operation: Operation) {
        self.operations().push(operation);
    }

    /// Notes a write before it is sent, so that it is known even when its client is not heard of again.
    pub fn note_unknown(&self, client: u32, key: &str, value: &str, expected: Expected) -> Pending {
        let begin = self.clock.now();
        let (key, value) = (key.to_owned(), value.to_owned());
        let did = Did::Wrote { key, value, expected, outcome: Written::Unknown };
        let mut operations = self.operations();
        operations.push(Operation { client, begin, end: begin, did });
        Pending(operations.len() - 1)
    }

    /// What has become of it.
    pub fn settle(&self, pending: Pending, became: Written) {
        let now = self.clock.now();
        let operation = &mut self.operations()[pending.0];
        operation.end = now;
        if let Did::Wrote { outcome, .. } = &mut operation.did {
            *outcome = became;
        }
    }

    pub fn so_far(&self) -> Vec<Operation> {
        self.operations().clone()
    }

    /// How many of the notes are of this kind.
    pub fn count(&self, of: impl Fn(&Operation) -> bool) -> usize {
        self.operations().iter().filter(|operation| of(operation)).count()
    }

    fn operations(&self) -> MutexGuard<'_, Vec<Operation>> {
        self.operations.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
