//! What the zone owns and other zones need: it is at global when it comes back as an echo. What differs from its echo is
//! submitted again, until it does not.
//!
//! Pure but for the time that comes in. A resource is removed at global because it was deleted here, which the store's
//! tombstones tell. One that is merely absent here, as after the loss of the zone's disk, is removed only when it has
//! stayed so for long.
use proto::link::{Key, Submit, Submitted, submit::Change};
use shared_catalog::Catalog;
use shared_model::{Resource, ResourceKey, Revision, kind};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// The kinds that a zone brings.
const KINDS: [&str; 3] = [kind::MESH_TRUST, kind::MESH_SERVICE, "MeshZoneAddress"];
/// After a refusal, and when an answer did not come.
const RETRY: Duration = Duration::from_secs(5);
/// The longest wait before what another replica of the zone has replaced is said again.
const RIVAL_MAX: Duration = Duration::from_secs(600);
/// How long an echo may be without its resource before it is taken for left over.
const LEFT_OVER: Duration = Duration::from_secs(3600);
/// Submissions that may wait for an answer at once.
const IN_FLIGHT: usize = 64;

#[derive(Default)]
pub struct Submissions {
    next: u64,
    waiting: BTreeMap<u64, ResourceKey>,
    states: BTreeMap<ResourceKey, State>,
    rivals: BTreeMap<ResourceKey, Rival>,
    orphans: BTreeMap<ResourceKey, Instant>,
}

/// What another replica of the zone has replaced: in which revision of it here, how often, when it may be said again.
struct Rival {
    of: Revision,
    count: u32,
    until: Instant,
}

enum State {
    /// Submitted; asked again when no answer comes.
    Sent {
        again: Instant,
    },
    /// Global holds it from this revision on; the echo is there once the replica is.
    Taken {
        revision: Revision,
        of: Revision,
        again: Instant,
    },
    Refused {
        again: Instant,
    },
    /// Global says the same as this revision.
    Settled {
        of: Revision,
    },
}

impl Submissions {
    /// What to submit now. `owned` and `followed` are the newest states.
    pub fn due(&mut self, zone: &str, owned: &Catalog, followed: &Catalog, now: Instant) -> Vec<Submit> {
        let mut echoes: BTreeMap<ResourceKey, &Arc<Resource>> = BTreeMap::new();
        for kind in KINDS {
            for echo in followed.list(kind, None).filter(|resource| resource.zone() == Some(zone)) {
                echoes.insert(ResourceKey::new(kind, &echo.mesh, echo.display_name()), echo);
            }
        }
        let mut due = Vec::new();
        for resource in KINDS.iter().flat_map(|kind| owned.list(kind, None)) {
            // Named as users see it, also here.
            let key = ResourceKey::new(&resource.kind, &resource.mesh, resource.display_name());
            let echo = echoes.remove(&key);
            if echo.is_some_and(|echo| says_the_same(resource, echo)) {
                self.states.insert(key, State::Settled { of: resource.revision });
                continue;
            }
            if echo.is_some() && self.is_replaced(&key, resource.revision, now) {
                continue;
            }
            let mesh_is_there = followed.get(&ResourceKey::new(kind::MESH, "", &resource.mesh)).is_some();
            if mesh_is_there && self.may_send(&key, resource.revision, followed.revision(), now) {
                let document = resource.to_json().to_string().into_bytes();
                due.push(self.submit(key, Change::Put(document.into()), now));
            }
        }
        let orphans: BTreeSet<ResourceKey> = echoes.into_keys().collect();
        self.orphans.retain(|key, _| orphans.contains(key));
        if !orphans.is_empty() {
            let deleted = deleted(owned);
            for key in orphans {
                let since = *self.orphans.entry(key.clone()).or_insert(now);
                let meant = deleted.contains(&key) || now.duration_since(since) >= LEFT_OVER;
                if meant && self.may_send(&key, Revision(0), followed.revision(), now) {
                    let change = Change::Delete(Key {
                        kind: key.kind.clone(),
                        mesh: key.mesh.clone(),
                        name: key.name.clone(),
                    });
                    due.push(self.submit(key, change, now));
                }
            }
        }
        due
    }

    /// Global has answered one.
    pub fn answered(&mut self, answer: &Submitted, owned: &Catalog, now: Instant) {
        let Some(key) = self.waiting.remove(&answer.id) else { return };
        let again = now + RETRY;
        let state = if answer.error.is_empty() {
            let of = owned.get(&key).map_or(Revision(0), |resource| resource.revision);
            State::Taken { revision: Revision(answer.revision), of, again }
        } else {
            tracing::warn!(%key, reason = answer.error, "global refused what the zone submitted");
            State::Refused { again }
        };
        self.states.insert(key, state);
    }

    /// Whether another replica of the zone, with a store of its own, has replaced what this one said. Two that answer each
    /// other at once would fill the log: each waits twice as long as before.
    fn is_replaced(&mut self, key: &ResourceKey, own: Revision, now: Instant) -> bool {
        if self.rivals.get(key).is_some_and(|rival| rival.of != own) {
            self.rivals.remove(key);
        }
        if matches!(self.states.get(key), Some(State::Settled { of }) if *of == own) {
            let count = self.rivals.get(key).map_or(0, |rival| rival.count);
            if count == 0 {
                tracing::warn!(
                    %key,
                    "another zone-cp of this zone says something else: those with stores of their own must not serve the same mesh"
                );
            }
            let wait = RETRY.saturating_mul(1 << count.min(16)).min(RIVAL_MAX);
            self.rivals.insert(key.clone(), Rival { of: own, count: count + 1, until: now + wait });
            self.states.remove(key);
        }
        self.rivals.get(key).is_some_and(|rival| now < rival.until)
    }

    fn may_send(&self, key: &ResourceKey, own: Revision, followed: Revision, now: Instant) -> bool {
        if self.waiting.len() >= IN_FLIGHT {
            return false;
        }
        match self.states.get(key) {
            None | Some(State::Settled { .. }) => true,
            Some(State::Sent { again } | State::Refused { again }) => now >= *again,
            Some(State::Taken { revision, of, again }) => {
                *of != own || (followed >= *revision && now >= *again)
            }
        }
    }

    fn submit(&mut self, key: ResourceKey, change: Change, now: Instant) -> Submit {
        self.next += 1;
        self.waiting.retain(|_, waiting| *waiting != key);
        self.waiting.insert(self.next, key.clone());
        self.states.insert(key, State::Sent { again: now + RETRY });
        Submit { id: self.next, change: Some(change) }
    }
}

/// Global adds labels of its own; what the zone says must be in it.
fn says_the_same(own: &Resource, echo: &Resource) -> bool {
    let labels = own.labels.iter().all(|(key, value)| echo.labels.get(key) == Some(value));
    labels && own.spec == echo.spec && own.status == echo.status
}

/// What the store remembers to have deleted.
fn deleted(owned: &Catalog) -> BTreeSet<ResourceKey> {
    let changes = owned.changes_since(Revision(0)).unwrap_or_default();
    let graves = changes.iter().filter_map(|change| match change {
        shared_catalog::Change::Deleted { key, .. } => Some(key.clone()),
        shared_catalog::Change::Put(_) => None,
    });
    graves.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use shared_catalog::{Command, Expected, Meshes};
    use shared_model::{Timestamp, labels};

    fn put(catalog: &mut Catalog, resource: &Resource) {
        catalog.apply(&Command::put(resource, Expected::Any, Timestamp::UNIX_EPOCH));
    }

    fn service(name: &str, port: u16) -> Resource {
        Resource::new(kind::MESH_SERVICE, "default", name, json!({"ports": [{"port": port}]}))
            .with_label(labels::ZONE, "east")
    }

    fn echo(name: &str, port: u16) -> Resource {
        let mut echo = service(name, port).with_label(labels::DISPLAY_NAME, name);
        echo.name = format!("{name}-hash");
        echo
    }

    fn world() -> (Catalog, Catalog) {
        let mut followed = Catalog::new();
        put(&mut followed, &Resource::new(kind::MESH, "", "default", json!({})));
        (Catalog::with_meshes(Meshes::Elsewhere), followed)
    }

    fn told(due: &[Submit]) -> Vec<&'static str> {
        due.iter()
            .map(|submit| if matches!(submit.change, Some(Change::Put(_))) { "put" } else { "delete" })
            .collect()
    }

    #[test]
    fn what_differs_from_its_echo_is_submitted_until_it_does_not() {
        let (mut owned, mut followed) = world();
        let (mut submissions, start) = (Submissions::default(), Instant::now());
        put(&mut owned, &service("web", 80));
        let first = submissions.due("east", &owned, &followed, start);
        assert_eq!(told(&first), ["put"]);
        assert!(submissions.due("east", &owned, &followed, start).is_empty(), "it waits for the answer");
        submissions.answered(
            &Submitted { id: first[0].id, revision: 2, error: String::new() },
            &owned,
            start,
        );
        assert!(
            submissions.due("east", &owned, &followed, start + RETRY).is_empty(),
            "it waits for the replica"
        );
        put(&mut followed, &echo("web", 80));
        assert!(submissions.due("east", &owned, &followed, start + RETRY).is_empty());
        put(&mut owned, &service("web", 81));
        assert_eq!(told(&submissions.due("east", &owned, &followed, start)), ["put"]);
    }

    #[test]
    fn two_with_stores_of_their_own_do_not_answer_each_other_without_end() {
        let (mut one, mut followed) = world();
        let (mut other, _) = world();
        put(&mut one, &service("web", 80));
        put(&mut other, &service("web", 81));
        let (mut submissions, start) = ([Submissions::default(), Submissions::default()], Instant::now());
        let mut writes = 0;
        for second in 0..3600 {
            let now = start + Duration::from_secs(second);
            for (submissions, owned, port) in
                submissions.iter_mut().zip([&one, &other]).zip([80, 81]).map(|((a, b), c)| (a, b, c))
            {
                for submit in submissions.due("east", owned, &followed, now) {
                    writes += 1;
                    put(&mut followed, &echo("web", port));
                    let revision = followed.revision().0;
                    submissions.answered(
                        &Submitted { id: submit.id, revision, error: String::new() },
                        owned,
                        now,
                    );
                }
            }
        }
        assert!((3..40).contains(&writes), "{writes} writes in an hour");
        // What is changed here is said at once.
        put(&mut one, &service("web", 82));
        put(&mut followed, &echo("web", 81));
        let now = start + Duration::from_secs(3600);
        assert_eq!(told(&submissions[0].due("east", &one, &followed, now)), ["put"]);
    }

    #[test]
    fn an_answer_that_does_not_come_and_a_refusal_are_tried_again() {
        let (mut owned, followed) = world();
        let (mut submissions, start) = (Submissions::default(), Instant::now());
        put(&mut owned, &service("web", 80));
        submissions.due("east", &owned, &followed, start);
        let again = submissions.due("east", &owned, &followed, start + RETRY);
        assert_eq!(told(&again), ["put"]);
        let refused = Submitted { id: again[0].id, revision: 0, error: "no".into() };
        submissions.answered(&refused, &owned, start + RETRY);
        assert!(submissions.due("east", &owned, &followed, start + RETRY).is_empty());
        assert_eq!(told(&submissions.due("east", &owned, &followed, start + 2 * RETRY)), ["put"]);
    }

    #[test]
    fn only_what_was_deleted_here_is_deleted_there_at_once() {
        let (mut owned, mut followed) = world();
        let (mut submissions, start) = (Submissions::default(), Instant::now());
        put(&mut followed, &echo("web", 80));
        put(&mut followed, &echo("lost", 80));
        put(&mut owned, &service("web", 80));
        let key = service("web", 80).key();
        owned.apply(&Command::delete(key, Expected::Any, Timestamp::UNIX_EPOCH));
        let due = submissions.due("east", &owned, &followed, start);
        assert!(matches!(&due[..], [Submit { change: Some(Change::Delete(key)), .. }] if key.name == "web"));
        let late = submissions.due("east", &owned, &followed, start + LEFT_OVER);
        assert_eq!(told(&late), ["delete", "delete"]);
    }

    #[test]
    fn another_zones_echo_and_a_mesh_that_is_gone_are_left_alone() {
        let (mut owned, mut followed) = world();
        put(&mut followed, &echo("web", 80).with_label(labels::ZONE, "west"));
        let mut elsewhere = service("web", 80);
        elsewhere.mesh = "gone".into();
        put(&mut owned, &elsewhere);
        assert!(Submissions::default().due("east", &owned, &followed, Instant::now()).is_empty());
    }
}
