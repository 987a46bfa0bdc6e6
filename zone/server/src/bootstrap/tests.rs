use super::*;
use shared_catalog::{Catalog, Command, Expected, Meshes};
use shared_model::{Timestamp, kind};

const WEB: &str = r#"{"type":"Dataplane","mesh":"default","name":"web-1","networking":{"address":"10.0.0.1",
"admin":{"port":9911},"inbound":[{"port":80,"tags":{"kuma.io/service":"web"}}]}}"#;

fn bootstrap() -> Bootstrap {
    let mut catalog = Catalog::with_meshes(Meshes::Elsewhere);
    let mesh = Resource::new(kind::MESH, "", "default", json!({}));
    catalog.apply(&Command::put(&mesh, Expected::Any, Timestamp::UNIX_EPOCH));
    let (_, owned) = watch::channel(Arc::new(catalog));
    Bootstrap {
        zone: "east".into(),
        catalogs: Catalogs::new("east", None, owned),
        ca_pem: "the CA".into(),
        names: ["localhost", "127.0.0.1", "::1"].map(String::from).into(),
        xds_port: 5678,
        loaded: watch::channel(true).1,
        metrics: Metrics::new().0,
    }
}

fn request(change: impl FnOnce(&mut Value)) -> Vec<u8> {
    let mut request = json!({"mesh": "default", "name": "web-1", "dataplaneToken": " token\n", "dataplaneResource": WEB,
        "version": {"envoy": {"version": "1.40.0"}}, "caCert": "", "dynamicMetadata": null, "features": ["feature-x"]});
    change(&mut request);
    request.to_string().into_bytes()
}

fn refused(change: impl FnOnce(&mut Value), host: &str) -> Refused {
    bootstrap().make(&request(change), Some(host)).unwrap_err()
}

#[test]
fn a_good_request_gets_delta_ads_and_its_own_admin_port() {
    let (envoy, address) = bootstrap().make(&request(|_| {}), Some("localhost:5678")).unwrap();
    assert_eq!(address, "10.0.0.1");
    assert_eq!(envoy["node"]["id"], "default.web-1");
    assert_eq!(envoy["node"]["cluster"], "web");
    assert_eq!(envoy["node"]["metadata"]["dataplane.resource"], WEB);
    assert_eq!(envoy["admin"]["address"]["socketAddress"]["portValue"], 9911);
    let ads = &envoy["dynamicResources"]["adsConfig"];
    assert_eq!(ads["apiType"], "DELTA_GRPC");
    assert_eq!(
        ads["grpcServices"][0]["initialMetadata"][0],
        json!({"key": "authorization", "value": "token"})
    );
    let cluster = &envoy["staticResources"]["clusters"][0];
    assert_eq!(
        (&cluster["type"], &cluster["transportSocket"]["typedConfig"]["sni"]),
        (&json!("LOGICAL_DNS"), &json!("localhost"))
    );
    assert!(envoy.get("hdsConfig").is_none());
}

#[test]
fn an_address_is_dialled_as_it_is_and_is_no_server_name() {
    let (envoy, _) = bootstrap().make(&request(|_| {}), Some("127.0.0.1:5678")).unwrap();
    let cluster = &envoy["staticResources"]["clusters"][0];
    assert_eq!(cluster["type"], "STATIC");
    assert!(cluster["transportSocket"]["typedConfig"].get("sni").is_none());
    assert!(bootstrap().make(&request(|_| {}), Some("[::1]:5678")).is_ok());
}

#[test]
fn each_fault_has_its_status() {
    let host = "localhost:5678";
    assert_eq!(bootstrap().make(b"{", Some(host)).unwrap_err(), Refused::Unreadable);
    let no_token = refused(|r| r["dataplaneToken"] = json!(" "), host);
    assert!(matches!(no_token, Refused::Invalid(reason) if reason.contains("token")));
    let elsewhere = refused(|_| {}, "cp.example:5678");
    assert!(matches!(elsewhere, Refused::Unsuitable(reason) if reason.contains("--tls-san cp.example")));
    assert_eq!(refused(|r| r["dataplaneResource"] = json!(""), host), Refused::NoDataplane);
    let unknown = WEB.replace("\"default\"", "\"other\"");
    let unknown = refused(
        |r| {
            r["mesh"] = json!("other");
            r["dataplaneResource"] = json!(unknown);
        },
        host,
    );
    assert_eq!(unknown, Refused::Invalid("mesh \"other\" does not exist".into()));
    let invalid = WEB.replace("10.0.0.1", "nowhere");
    let invalid = refused(|r| r["dataplaneResource"] = json!(invalid), host);
    assert!(matches!(invalid, Refused::Invalid(reason) if reason.contains("networking.address")));
    let ca = refused(|r| r["caCert"] = json!("rubbish"), host);
    assert!(matches!(ca, Refused::Unsuitable(_)));
    let own = tempfile::tempdir().unwrap();
    let serving = shared_node::tls::ServingCert::load_or_make(own.path(), &[]).unwrap();
    let leaf = serving.chain_pem.split_inclusive("-----END CERTIFICATE-----\n").next().unwrap();
    let not_a_ca = refused(|r| r["caCert"] = json!(leaf), host);
    assert!(matches!(not_a_ca, Refused::Unsuitable(reason) if reason.contains("no authority's")));
    let good = request(|r| r["caCert"] = json!(serving.ca_pem));
    assert!(bootstrap().make(&good, Some(host)).is_ok());
    let mut early = bootstrap();
    early.loaded = watch::channel(false).1;
    assert!(matches!(early.make(&request(|_| {}), Some(host)).unwrap_err(), Refused::NotLoaded(_)));
}
