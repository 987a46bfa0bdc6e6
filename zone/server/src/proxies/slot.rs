//! What is new for a proxy since its actor looked last. Bounded by what the proxy uses: news of one cluster's endpoints
//! takes the place of older news of them, and news of everything takes the place of all.
//!
//! ```text
//! whole() | moved(assignments, generation) --true: wake--> the actor --take()--> News
//! ```
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use zone_xds::Encoded;

#[derive(Debug, Default)]
pub struct Slot(Mutex<Latest>);

#[derive(Debug, Default)]
struct Latest {
    /// The actor has been woken and has not looked yet.
    woken: bool,
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
    /// Anything may be new. Answers whether the actor must be woken.
    pub fn whole(&self) -> bool {
        let mut latest = self.lock();
        latest.whole = true;
        latest.assignments = Vec::new();
        !std::mem::replace(&mut latest.woken, true)
    }

    /// Other endpoints are all that is new in this epoch. Answers whether the actor must be woken.
    pub fn moved(&self, assignments: &[Arc<Encoded>], generation: u64) -> bool {
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
        !std::mem::replace(&mut latest.woken, true)
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
        assert!(slot.moved(&[old], 7));
        assert!(!slot.moved(std::slice::from_ref(&new), 8), "it is awake");
        assert!(!slot.moved(std::slice::from_ref(&other), 9));
        assert_eq!(slot.take(), News::Moved { assignments: vec![new, other], generation: 9 });
        assert_eq!(slot.take(), News::Nothing);
        assert!(slot.whole());
    }

    #[test]
    fn news_of_everything_takes_the_place_of_all() {
        let slot = Slot::default();
        slot.moved(&[assignment("a", "1")], 7);
        slot.whole();
        slot.moved(&[assignment("b", "1")], 8);
        assert_eq!(slot.take(), News::Whole);
        assert_eq!(slot.take(), News::Nothing);
    }
}
