//! Scripts: each line is an event, and the indented lines below it are its effects. `UPDATE_EXPECT=1` writes the
//! effects anew.
//!
//! ```text
//! offer 3 cds web=a eds web=1     generation 3, with the cluster `web` in version `a` ...
//! cds                             a first request without names: all
//! eds +web -api have web=1        subscribe, unsubscribe, what the client says that it has
//! cds ack | cds nack why | cds ack #7 +web
//! ```
use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use envoy_types::pb::google::rpc::Status;
use prost::Message;
use std::{collections::BTreeMap, fmt::Write, path::Path, sync::Arc};
use zone_xds::{Effect, Encoded, Session, Snapshot, Type};

#[test]
fn every_script_has_the_effects_that_it_says() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/session/scripts");
    let mut paths: Vec<_> =
        std::fs::read_dir(dir).expect("the scripts").map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(!paths.is_empty());
    for path in paths {
        let script = std::fs::read_to_string(&path).expect("a script");
        let played = play(&script);
        if std::env::var_os("UPDATE_EXPECT").is_some() {
            std::fs::write(&path, played).expect("the script is written");
        } else {
            assert_eq!(script, played, "{}", path.display());
        }
    }
}

fn kind_of(word: &str) -> Option<Type> {
    Type::ALL.into_iter().find(|kind| kind.name() == word)
}

fn play(script: &str) -> String {
    let mut player = Player::default();
    let mut out = String::new();
    for line in script.lines().filter(|line| !line.starts_with("    ")) {
        writeln!(out, "{line}").unwrap();
        let event = line.split('#').next().unwrap().trim();
        // A `#` directly before a digit is a nonce.
        let event = if line.contains(" #") && !line.contains("# ") { line.trim() } else { event };
        if event.is_empty() {
            continue;
        }
        for effect in player.event(event) {
            writeln!(out, "    {}", player.print(&effect)).unwrap();
        }
    }
    out
}

#[derive(Default)]
struct Player {
    session: Session,
    last: BTreeMap<Type, String>,
}

impl Player {
    fn event(&mut self, event: &str) -> Vec<Effect> {
        let words: Vec<&str> = event.split_whitespace().collect();
        match words[0] {
            "offer" => {
                self.session.offer(Arc::new(snapshot(&words[2..])), words[1].parse().expect("a generation"))
            }
            "reconnect" => {
                *self = Player::default();
                Vec::new()
            }
            "other" => self.session.answer(&DeltaDiscoveryRequest {
                type_url: "type.googleapis.com/envoy.service.runtime.v3.Runtime".into(),
                ..Default::default()
            }),
            word => {
                let kind = kind_of(word).unwrap_or_else(|| panic!("no such event: {event}"));
                let request = self.request(kind, &words[1..]);
                self.session.answer(&request)
            }
        }
    }

    fn request(&self, kind: Type, words: &[&str]) -> DeltaDiscoveryRequest {
        let mut request = DeltaDiscoveryRequest { type_url: kind.type_url().into(), ..Default::default() };
        let mut have = false;
        for word in words {
            match *word {
                "ack" => request.response_nonce = self.last[&kind].clone(),
                "nack" => {
                    request.response_nonce = self.last[&kind].clone();
                    request.error_detail = Some(Status { code: 13, ..Status::default() });
                }
                "have" => have = true,
                word if word.starts_with('#') => request.response_nonce = word[1..].into(),
                word if word.starts_with('+') => request.resource_names_subscribe.push(word[1..].into()),
                word if word.starts_with('-') => request.resource_names_unsubscribe.push(word[1..].into()),
                word if have => {
                    let (name, text) = word.split_once('=').expect("name=version");
                    let version = Encoded::from_bytes(kind, name, text.into()).version.to_string();
                    request.initial_resource_versions.insert(name.into(), version);
                }
                reason => {
                    request.error_detail.as_mut().expect("a reason follows nack").message = reason.into()
                }
            }
        }
        request
    }

    fn print(&mut self, effect: &Effect) -> String {
        match effect {
            Effect::Send(response) => {
                let kind = Type::of_url(response.type_url).expect("a type");
                self.last.insert(kind, response.nonce.clone());
                let mut bytes = Vec::new();
                response.encode_into(&mut bytes);
                let mut decoded = DeltaDiscoveryResponse::decode(bytes.as_slice()).expect("a response");
                // Their order within a response says nothing.
                decoded.resources.sort_by(|a, b| a.name.cmp(&b.name));
                decoded.removed_resources.sort();
                let mut line = format!("-> {kind} #{}:", response.nonce);
                for resource in decoded.resources {
                    let text =
                        String::from_utf8_lossy(&resource.resource.expect("a body").value).into_owned();
                    let text = if text.starts_with('\n') { "(nobody)".to_owned() } else { text };
                    write!(line, " {}={text}", resource.name).unwrap();
                }
                for name in decoded.removed_resources {
                    write!(line, " -{name}").unwrap();
                }
                line
            }
            Effect::Acknowledged { generation, pushed } => {
                assert_eq!(*generation, self.session.acked());
                format!("-> acknowledged {generation}{}", if *pushed { "" } else { ", nothing was pushed" })
            }
            Effect::Refused { generation, type_url, resource, reason } => {
                let kind = Type::of_url(type_url).expect("a type");
                format!(
                    "-> refused {generation} {kind} {}: {reason}",
                    resource.as_deref().unwrap_or("(none)")
                )
            }
            Effect::Close(reason) => format!("-> close: {reason}"),
        }
    }
}

fn snapshot(words: &[&str]) -> Snapshot {
    let mut snapshot = Snapshot::empty();
    let mut kind = Type::Cluster;
    for word in words {
        if let Some(other) = kind_of(word) {
            kind = other;
            continue;
        }
        let (name, text) = word.split_once('=').unwrap_or_else(|| panic!("{word}: name=version"));
        snapshot.insert_encoded(kind, name, Encoded::from_bytes(kind, name, text.into()));
    }
    snapshot
}
