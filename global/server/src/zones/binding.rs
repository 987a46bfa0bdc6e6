//! Which store a zone's name belongs to. A zone makes a random id with its store; the first one to come under a name is
//! bound to it, in the status of the Zone, and another one is refused until an operator rebinds the name. Pure.
//!
//! ```text
//! no Zone, a store that never followed   -->  New: the Zone, bound
//! no Zone, a store that followed         -->  refused: the Zone was deleted
//! Zone, no id                            -->  New: bound
//! Zone, the same id                      -->  Bound
//! Zone, another id                       -->  refused: rebind
//! ```
use serde_json::{Value, json};
use shared_model::{Resource, kind};

const BOUND: &str = "zoneId";
/// The id that a rebind has let go of: it must not be the first one to come.
const RELEASED: &str = "releasedZoneId";

const ID_MAX: usize = 64;

#[derive(Debug, PartialEq)]
pub enum Binding {
    Bound,
    /// To be stored in place of what was judged.
    New(Box<Resource>),
}

/// Judges who comes under a name. `stored` is the Zone; `has_followed`: its disk belongs to this cluster already.
pub fn judge(name: &str, stored: Option<&Resource>, id: &str, has_followed: bool) -> Result<Binding, String> {
    check_id(id)?;
    let Some(stored) = stored else {
        if has_followed {
            return Err(format!(
                "zone {name} was deleted at global: apply a Zone of this name to let it in again, or start it with an empty data directory"
            ));
        }
        let zone = Resource::new(kind::ZONE, "", name, json!({"enabled": true}));
        return Ok(Binding::New(Box::new(bound(zone, id))));
    };
    match (text(stored, BOUND), text(stored, RELEASED)) {
        (Some(known), _) if known == id => Ok(Binding::Bound),
        (Some(known), _) => Err(format!(
            "the name {name} belongs to another zone: this one has the id {id}, the name is bound to {known}. If this one takes its place, run `weftctl zone rebind {name}`; else give this one another name"
        )),
        (None, Some(released)) if released == id => Err(format!(
            "the name {name} was taken from this zone, {id}, by a rebind: `weftctl zone rebind {name} --to {id}` gives it back"
        )),
        (None, _) => Ok(Binding::New(Box::new(bound(stored.clone(), id)))),
    }
}

/// The Zone with its name free for another store, or bound to `to`.
pub fn rebound(stored: &Resource, to: Option<&str>) -> Result<Resource, String> {
    if let Some(id) = to {
        check_id(id)?;
        return Ok(bound(stored.clone(), id));
    }
    let mut zone = stored.clone();
    let released = text(stored, BOUND).or_else(|| text(stored, RELEASED)).map(str::to_owned);
    let status = status_of(&mut zone);
    status.remove(BOUND);
    if let Some(released) = released {
        status.insert(RELEASED.to_owned(), released.into());
    }
    Ok(zone)
}

/// The id that the name is bound to.
pub fn id_of(zone: &Resource) -> Option<&str> {
    text(zone, BOUND)
}

fn check_id(id: &str) -> Result<(), String> {
    let good =
        (1..=ID_MAX).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    match good {
        true => Ok(()),
        false => Err(format!("{id:?} is not the id of a zone: up to {ID_MAX} hexadecimal digits and '-'")),
    }
}

fn bound(mut zone: Resource, id: &str) -> Resource {
    let status = status_of(&mut zone);
    status.remove(RELEASED);
    status.insert(BOUND.to_owned(), id.into());
    zone
}

fn status_of(zone: &mut Resource) -> &mut serde_json::Map<String, Value> {
    let status = zone.status.get_or_insert_with(|| json!({}));
    if !status.is_object() {
        *status = json!({});
    }
    status.as_object_mut().expect("it has just been made one")
}

fn text<'a>(zone: &'a Resource, field: &str) -> Option<&'a str> {
    zone.status.as_ref()?.get(field)?.as_str()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "11111111-1111-4111-8111-111111111111";
    const TWO: &str = "22222222-2222-4222-8222-222222222222";

    fn new(stored: Option<&Resource>, id: &str) -> Resource {
        match judge("east", stored, id, false) {
            Ok(Binding::New(zone)) => *zone,
            other => panic!("not new: {other:?}"),
        }
    }

    #[test]
    fn the_first_to_come_is_bound_and_another_is_refused_until_a_rebind() {
        let zone = new(None, ONE);
        assert_eq!((zone.spec["enabled"] == true, id_of(&zone)), (true, Some(ONE)));
        assert_eq!(judge("east", Some(&zone), ONE, true), Ok(Binding::Bound));
        let refused = judge("east", Some(&zone), TWO, false).expect_err("refused");
        assert!(refused.contains(ONE) && refused.contains("weftctl zone rebind east"), "{refused}");

        let free = rebound(&zone, None).expect("free");
        // The former one must not be the first to come.
        assert!(judge("east", Some(&free), ONE, true).expect_err("refused").contains("--to"));
        let again = rebound(&free, None).expect("free");
        assert!(judge("east", Some(&again), ONE, true).is_err());
        let taken = new(Some(&free), TWO);
        assert_eq!(id_of(&taken), Some(TWO));
        assert!(judge("east", Some(&taken), ONE, true).expect_err("refused").contains(TWO));
        let back = rebound(&taken, Some(ONE)).expect("bound");
        assert_eq!(judge("east", Some(&back), ONE, true), Ok(Binding::Bound));
    }

    #[test]
    fn a_zone_that_an_operator_made_is_bound_at_first_contact_and_keeps_what_he_wrote() {
        let zone = Resource::new(kind::ZONE, "", "east", json!({"enabled": false}));
        let bound = new(Some(&zone), ONE);
        assert_eq!((bound.spec, bound.status), (zone.spec, Some(json!({"zoneId": ONE}))));
    }

    #[test]
    fn a_deleted_zone_does_not_come_back_by_itself() {
        assert!(judge("east", None, ONE, true).expect_err("refused").contains("was deleted"));
        assert!(judge("east", None, "../etc", false).is_err() && judge("east", None, "", false).is_err());
    }
}
