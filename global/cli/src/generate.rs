//! `weftctl generate`: asks the control plane for a token and prints it, and nothing else, to stdout.
use crate::{
    app::Session,
    args::{Generate, ZoneScope},
    client::Request,
    exit::Failure,
    out,
};
use reqwest::Method;
use serde_json::{Value, json};
use std::{collections::BTreeMap, time::Duration};

pub async fn run(session: &Session, args: Generate) -> Result<(), Failure> {
    let (path, body) = request(args);
    let client = session.client()?;
    let request =
        Request { method: Method::POST, path: &["tokens", path], body: Some(&body), ..Request::default() };
    let reply = client.send(request).await?.good().map_err(anyhow::Error::from)?;
    out::line(reply.body.trim())
}

/// What is asked for, as Kuma's API words it.
fn request(args: Generate) -> (&'static str, Value) {
    let valid_for = |duration: Duration| shared_model::Duration(duration).to_string();
    match args {
        Generate::Dataplane { mesh, name, tags, workload, valid_for: lifetime } => {
            let mut by_key: BTreeMap<String, Vec<String>> = BTreeMap::new();
            for (key, values) in tags {
                by_key.entry(key).or_default().extend(values.split(',').map(|value| value.trim().to_owned()));
            }
            let body = json!({
                "mesh": mesh.mesh,
                "name": name.unwrap_or_default(),
                "tags": by_key,
                "workload": workload.unwrap_or_default(),
                "validFor": valid_for(lifetime),
            });
            ("dataplane", body)
        }
        Generate::Zone { zone, scope, valid_for: lifetime } => {
            let name = |scope: &ZoneScope| match scope {
                ZoneScope::Cp => "cp",
                ZoneScope::Ingress => "ingress",
                ZoneScope::Egress => "egress",
            };
            let scope: Vec<&str> = scope.iter().map(name).collect();
            ("zone", json!({"zone": zone, "scope": scope, "validFor": valid_for(lifetime)}))
        }
        Generate::User { name, groups, valid_for: lifetime } => {
            ("user", json!({"name": name, "groups": groups, "validFor": valid_for(lifetime)}))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Command};
    use clap::Parser;

    fn asked(line: &str) -> (&'static str, Value) {
        match Cli::try_parse_from(line.split(' ')).expect("good arguments").command {
            Command::Generate(args) => request(args),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_token_is_bound_to_what_was_named() {
        let line =
            "weftctl generate dataplane-token --name web-1 --tag a=1,2 --tag b=3 --tag a=4 --valid-for 24h";
        let expected = json!({"mesh": "default", "name": "web-1", "workload": "",
            "tags": {"a": ["1", "2", "4"], "b": ["3"]}, "validFor": "24h0m0s"});
        assert_eq!(asked(line), ("dataplane", expected));
        let line = "weftctl generate zone-token --zone zone-1 --scope ingress,egress";
        let expected = json!({"zone": "zone-1", "scope": ["ingress", "egress"], "validFor": "8760h0m0s"});
        assert_eq!(asked(line), ("zone", expected));
        let line = "weftctl generate user-token --name jane --group mesh-system:admin";
        let expected = json!({"name": "jane", "groups": ["mesh-system:admin"], "validFor": "720h0m0s"});
        assert_eq!(asked(line), ("user", expected));
    }
}
