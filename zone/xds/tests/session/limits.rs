//! What a client cannot ask for.
use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use zone_xds::{Effect, Session, Type, session};

fn ask(names: Vec<String>) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: Type::Endpoint.type_url().into(),
        resource_names_subscribe: names,
        ..Default::default()
    }
}

#[test]
fn more_names_than_a_mesh_can_have_close_the_stream() {
    let mut session = Session::new();
    let names = |range: std::ops::Range<usize>| range.map(|i| i.to_string()).collect::<Vec<_>>();
    assert_eq!(session.answer(&ask(names(0..session::MAX_NAMES))), []);
    let effects = session.answer(&ask(names(session::MAX_NAMES..session::MAX_NAMES + 1)));
    assert!(
        matches!(effects.as_slice(), [Effect::Close(reason)] if reason.contains(&session::MAX_NAMES.to_string())),
        "{effects:?}"
    );
    assert_eq!(session.answer(&ask(names(0..1))), [], "a closed stream is not heard any more");
}

#[test]
fn a_name_that_is_too_long_closes_the_stream() {
    let effects = Session::new().answer(&ask(vec!["n".repeat(session::MAX_NAME_LEN + 1)]));
    assert!(matches!(effects.as_slice(), [Effect::Close(_)]), "{effects:?}");
}
