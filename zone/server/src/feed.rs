//! What leads from one state of a catalog to the next, cut into steps, so that progress can be told per revision. Pure.
//!
//! A revision of a user is a step of its own. Proxies come and go by the hundred, each with a revision, and a step costs
//! every client of a service that changes: those that wait together are one step, and who asks for the progress of one of
//! them is told that of the step.
use shared_catalog::{Catalog, Change};
use shared_model::{Revision, kind, labels};
use zone_index::GENERATED_BY;

/// A reader that is further behind takes everything as one step: nobody watches that far back, and each step costs an
/// epoch of its own.
const STEPS_MAX: usize = 64;

/// The changes that one revision made, or several; the revision is the newest of them.
#[derive(Debug, PartialEq)]
pub struct Step {
    pub revision: Revision,
    pub changes: Vec<Change>,
}

/// The steps from `before` to `after`, in order. A revision that changed nothing which a later one did not change again
/// has no step of its own.
pub fn steps(before: &Catalog, after: &Catalog) -> Vec<Step> {
    if before.revision() == after.revision() {
        return Vec::new();
    }
    let fresh = before.revision() == Revision(0);
    let changes = match after.changes_since(before.revision()) {
        Some(changes) if !fresh => changes,
        _ => return vec![Step { revision: after.revision(), changes: compare(before, after) }],
    };
    let mut steps: Vec<Step> = Vec::new();
    for change in changes {
        let revision = change.revision();
        let joins = |step: &&mut Step| {
            step.revision == revision || step.changes.iter().chain([&change]).all(comes_with_proxies)
        };
        match steps.last_mut().filter(joins) {
            Some(step) => {
                step.revision = revision;
                step.changes.push(change);
            }
            None => steps.push(Step { revision, changes: vec![change] }),
        }
    }
    if steps.len() > STEPS_MAX {
        let changes = steps.into_iter().flat_map(|step| step.changes).collect();
        steps = vec![Step { revision: after.revision(), changes }];
    }
    steps
}

/// True for what is written because a proxy came, moved or left.
fn comes_with_proxies(change: &Change) -> bool {
    match change {
        Change::Put(resource) if resource.kind == kind::MESH_SERVICE => {
            resource.labels.get(labels::MANAGED_BY).is_some_and(|by| by == GENERATED_BY)
        }
        Change::Put(resource) => resource.kind == kind::DATAPLANE,
        Change::Deleted { key, .. } => key.kind == kind::DATAPLANE,
    }
}

/// For a reader that is too far behind for the feed: the difference of the two wholes. Both are complete states of one
/// history, so what is missing in the later one was deleted.
fn compare(before: &Catalog, after: &Catalog) -> Vec<Change> {
    let revision = after.revision();
    let gone = before.iter().map(|resource| resource.key()).filter(|key| after.get(key).is_none());
    let mut changes: Vec<Change> = gone.map(|key| Change::Deleted { key, revision }).collect();
    let differs =
        |key: &shared_model::ResourceKey, at: Revision| before.get(key).is_none_or(|old| old.revision != at);
    changes.extend(after.iter().filter(|r| differs(&r.key(), r.revision)).cloned().map(Change::Put));
    changes
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared_catalog::{Command, Expected};
    use shared_model::{Resource, ResourceKey, Timestamp, kind};

    fn put(catalog: &mut Catalog, name: &str, labels: &[(&str, &str)]) {
        let mut mesh = Resource::new(kind::MESH, "", name, serde_json::json!({}));
        mesh.labels = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        catalog.apply(&Command::put(&mesh, Expected::Any, Timestamp::UNIX_EPOCH));
    }

    fn delete(catalog: &mut Catalog, name: &str) {
        let key = ResourceKey::new(kind::MESH, "", name);
        catalog.apply(&Command::delete(key, Expected::Any, Timestamp::UNIX_EPOCH));
    }

    fn told(before: &Catalog, after: &Catalog) -> Vec<(u64, Vec<String>)> {
        let name = |change: &Change| match change {
            Change::Put(resource) => format!("+{}", resource.name),
            Change::Deleted { key, .. } => format!("-{}", key.name),
        };
        steps(before, after).iter().map(|s| (s.revision.0, s.changes.iter().map(name).collect())).collect()
    }

    #[test]
    fn each_revision_is_a_step_and_a_first_reading_is_one() {
        let mut catalog = Catalog::new();
        put(&mut catalog, "a", &[]);
        put(&mut catalog, "b", &[]);
        assert_eq!(told(&Catalog::new(), &catalog), [(2, vec!["+a".into(), "+b".into()])]);
        let before = catalog.clone();
        put(&mut catalog, "c", &[]);
        delete(&mut catalog, "a");
        assert_eq!(told(&before, &catalog), [(3, vec!["+c".into()]), (4, vec!["-a".into()])]);
        assert_eq!(told(&catalog, &catalog), []);
    }

    #[test]
    fn proxies_that_wait_together_are_one_step_and_a_policy_between_them_its_own() {
        let mut catalog = Catalog::new();
        put(&mut catalog, "default", &[]);
        let before = catalog.clone();
        let mut write = |kind: &str, name: &str| {
            let resource = Resource::new(kind, "default", name, serde_json::json!({}));
            catalog.apply(&Command::put(&resource, Expected::Any, Timestamp::UNIX_EPOCH));
        };
        write(kind::DATAPLANE, "a");
        write(kind::DATAPLANE, "b");
        write("MeshTimeout", "slow");
        write(kind::DATAPLANE, "c");
        write(kind::MESH_SERVICE, "of-a-user");
        let key = ResourceKey::new(kind::DATAPLANE, "default", "a");
        catalog.apply(&Command::delete(key, Expected::Any, Timestamp::UNIX_EPOCH));
        // The later word on a proxy is the only one.
        let of = |revision, names: &[&str]| (revision, names.iter().map(|name| (*name).to_owned()).collect());
        let expected =
            [of(3, &["+b"]), of(4, &["+slow"]), of(5, &["+c"]), of(6, &["+of-a-user"]), of(7, &["-a"])];
        assert_eq!(told(&before, &catalog), expected);
        let before = catalog.clone();
        for name in ["d", "e", "f"] {
            let resource = Resource::new(kind::DATAPLANE, "default", name, serde_json::json!({}));
            catalog.apply(&Command::put(&resource, Expected::Any, Timestamp::UNIX_EPOCH));
        }
        assert_eq!(told(&before, &catalog), [of(10, &["+d", "+e", "+f"])]);
    }

    #[test]
    fn a_reader_that_the_feed_has_forgotten_compares_the_wholes() {
        let mut before = Catalog::new();
        put(&mut before, "a", &[]);
        put(&mut before, "b", &[]);
        let mut after = before.clone();
        delete(&mut after, "a");
        put(&mut after, "b", &[("x", "y")]);
        put(&mut after, "c", &[]);
        let names: Vec<String> = compare(&before, &after).iter().map(|change| change.key().name).collect();
        assert_eq!(names, ["a", "b", "c"]);
    }

    #[test]
    fn a_long_way_is_one_step() {
        let mut before = Catalog::new();
        put(&mut before, "first", &[]);
        let mut after = before.clone();
        for i in 0..=STEPS_MAX {
            put(&mut after, &format!("m{i}"), &[]);
        }
        let told = told(&before, &after);
        assert_eq!((told.len(), told[0].0, told[0].1.len()), (1, after.revision().0, STEPS_MAX + 1));
    }
}
