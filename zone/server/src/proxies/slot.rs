//! What is new for a proxy since its actor looked last. Bounded by what the proxy uses: news of one cluster's endpoints
//! takes the place of older news of them, and news of everything takes the place of all.
//!
//! ```text
//! whole(urgency) | moved(assignments, generation) --Some(urgency): wake--> the actor --take()--> News
//! ```
use super::turns::Urgency;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use zone_xds::Encoded;

#[derive(Debug, Default)]
pub struct Slot(Mutex<Latest>);

#[derive(Debug, Default)]
struct Latest {
    /// The actor has been called so urgently, and has not looked yet.
    called: Option<Urgency>,
    whole: bool,
    assignments: Vec<Arc<Encoded>>,
    generation: u64,
}

/// What an actor finds.
#[derive(Debug, PartialEq)]
pub enum News {
    Nothing,
    /// Look at the newest epoch.
    Whole,
    /// Other endpoints, and nothing else, as of this epoch.
    Moved {
        assignments: Vec<Arc<Encoded>>,
        generation: u64,
    },
}

impl Slot {
    /// Anything may be new. Answers how urgently the actor must be called, if it must.
    pub fn whole(&self, urgency: Urgency) -> Option<Urgency> {
        let mut latest = self.lock();
        latest.whole = true;
        latest.assignments = Vec::new();
        latest.call(urgency)
    }

    /// Other endpoints are all that is new in this epoch. Answers how urgently the actor must be called, if it must.
    pub fn moved(&self, assignments: &[Arc<Encoded>], generation: u64) -> Option<Urgency> {
        let mut latest = self.lock();
        latest.generation = generation;
        if !latest.whole {
            for assignment in assignments {
                match latest.assignments.iter_mut().find(|known| known.name == assignment.name) {
                    Some(known) => *known = assignment.clone(),
                    None => latest.assignments.push(assignment.clone()),
                }
            }
        }
        latest.call(Urgency::Endpoints)
    }

    /// Takes what is new.
    pub fn take(&self) -> News {
        let latest = std::mem::take(&mut *self.lock());
        match (latest.whole, latest.assignments) {
            (true, _) => News::Whole,
            (false, assignments) if assignments.is_empty() => News::Nothing,
            (false, assignments) => News::Moved { assignments, generation: latest.generation },
        }
    }

    fn lock(&self) -> MutexGuard<'_, Latest> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Latest {
    fn call(&mut self, urgency: Urgency) -> Option<Urgency> {
        let more = self.called.is_none_or(|before| urgency < before);
        more.then(|| *self.called.insert(urgency))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zone_xds::Type;

    fn assignment(name: &str, text: &str) -> Arc<Encoded> {
        Arc::new(Encoded::from_bytes(Type::Endpoint, name, text.into()))
    }

    #[test]
    fn the_newest_of_each_cluster_is_found_by_one_look() {
        let slot = Slot::default();
        let (old, new, other) = (assignment("a", "1"), assignment("a", "2"), assignment("b", "1"));
        assert_eq!(slot.moved(&[old], 7), Some(Urgency::Endpoints));
        assert_eq!(slot.moved(std::slice::from_ref(&new), 8), None, "it is called");
        assert_eq!(slot.moved(std::slice::from_ref(&other), 9), None);
        assert_eq!(slot.take(), News::Moved { assignments: vec![new, other], generation: 9 });
        assert_eq!(slot.take(), News::Nothing);
        assert_eq!(slot.whole(Urgency::Rest), Some(Urgency::Rest));
    }

    #[test]
    fn what_is_more_urgent_than_the_call_before_calls_again() {
        let slot = Slot::default();
        assert_eq!(slot.whole(Urgency::Rest), Some(Urgency::Rest));
        assert_eq!(slot.moved(&[assignment("a", "1")], 7), Some(Urgency::Endpoints));
        assert_eq!(slot.whole(Urgency::Rest), None);
        assert_eq!(slot.whole(Urgency::Expiry), Some(Urgency::Expiry));
        assert_eq!(slot.take(), News::Whole);
        assert_eq!(slot.take(), News::Nothing, "the older calls find nothing");
        assert_eq!(slot.whole(Urgency::Rest), Some(Urgency::Rest));
    }

    #[test]
    fn news_of_everything_takes_the_place_of_all() {
        let slot = Slot::default();
        slot.moved(&[assignment("a", "1")], 7);
        slot.whole(Urgency::Rest);
        slot.moved(&[assignment("b", "1")], 8);
        assert_eq!(slot.take(), News::Whole);
        assert_eq!(slot.take(), News::Nothing);
    }
}
