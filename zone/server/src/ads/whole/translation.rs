//! What a state-of-the-world client says and is told, in the terms of delta, in which a [`Session`](zone_xds::Session)
//! thinks. Plain data.
//!
//! ```text
//!   hear(request)  ──▶ the names that are new or gone, an ACK or a NACK; or nothing, when it answers what is outdated
//!   tell(response) ──▶ clusters and listeners: all that the client should run; other types: what is new
//! ```
//!
//! Clusters and listeners that a response does not have are removed by the client, so it is told all of them each time:
//! what it has accepted, with what the session adds and without what it removes. Of assignments, routes and secrets
//! nothing is ever taken away by absence, and nothing is kept of them here.
//!
//! A refused response is the difficulty. The session then sends its resources one by one, and each of these would
//! take the others away, which Envoy has applied and which carry traffic: a client that came back runs things
//! that it never accepted on this stream. But Envoy names in its reason what it could not apply. So all that it does not
//! name is presumed to run, and told along. Should that be wrong, it turns out with the next refusal: the one that is named
//! then is presumed no more, and the same is told again without troubling the session.
use crate::ads::wire::Asker;
use bytes::Bytes;
use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use envoy_types::pb::google::rpc;
use prost::Message as _;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len, string};
use std::collections::{BTreeMap, BTreeSet};
use zone_xds::{Response, Type, Version};

/// The name that stands for all.
const ALL: &str = "*";
/// As much of a reason is searched for names, in bytes.
const REASON_MAX: usize = 64 << 10;
/// What stands around names in reasons.
const QUOTES: &str = "\"'`";
const PUNCTUATION: &[char] = &['.', ',', ';', ':', '(', ')', '[', ']', '{', '}', '<', '>'];

/// As much of a `DiscoveryRequest` as is looked at. The version is that of the nonce, or of an earlier stream.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Asked {
    #[prost(message, optional, tag = "2")]
    pub node: Option<Asker>,
    #[prost(string, repeated, tag = "3")]
    pub resource_names: Vec<String>,
    #[prost(string, tag = "4")]
    pub type_url: String,
    #[prost(string, tag = "5")]
    pub response_nonce: String,
    #[prost(message, optional, tag = "6")]
    pub error_detail: Option<rpc::Status>,
}

/// What a request means.
#[derive(Debug, Default, PartialEq)]
pub struct Heard {
    pub request: Option<DeltaDiscoveryRequest>,
    /// To be told once more, in another company.
    pub again: Option<Response>,
}

/// A `DiscoveryResponse`.
#[derive(Debug, PartialEq)]
pub struct Told {
    type_url: &'static str,
    nonce: String,
    /// Each an encoded `Any`.
    resources: Vec<Bytes>,
}

/// Names, and encoded `Any`s; both are slices of what all proxies share.
type Set = BTreeMap<Bytes, Bytes>;

/// One stream.
#[derive(Debug, Default)]
pub struct Translation {
    lanes: BTreeMap<Type, Lane>,
}

#[derive(Debug, Default)]
struct Lane {
    opened: bool,
    /// What the last request asked for; [`ALL`] among it for everything.
    names: BTreeSet<String>,
    /// Something was asked for by name, so that no names no longer means all.
    by_name: bool,
    /// Of the newest response, as the client and as the session know it, and how often that was told.
    nonce: String,
    of: String,
    times: u32,
    flight: Option<Flight>,
    /// What the client said to have; empty for the types that are told in parts.
    accepted: Set,
    /// What it runs as far as can be known.
    presumed: Set,
}

/// A response that was not answered yet.
#[derive(Debug)]
struct Flight {
    response: Response,
    /// What the session wants the client to have, of which it may not.
    added: Set,
    offered: Set,
}

impl Translation {
    pub fn hear(&mut self, asked: Asked) -> Heard {
        let mut request = DeltaDiscoveryRequest {
            node: asked.node.map(Into::into),
            type_url: asked.type_url,
            ..DeltaDiscoveryRequest::default()
        };
        let Some(kind) = Type::of_url(&request.type_url) else {
            // The session leaves aside what it does not know.
            return Heard { request: Some(request), again: None };
        };
        let lane = self.lanes.entry(kind).or_default();
        if lane.opened && !asked.response_nonce.is_empty() && asked.response_nonce != lane.nonce {
            // The client had not read the newest response yet. When it has, it says all of this again.
            return Heard::default();
        }
        let flight = lane.flight.take_if(|_| !asked.response_nonce.is_empty());
        let mut again = None;
        if let Some(flight) = flight {
            let nonce = flight.response.nonce.clone();
            again = match &asked.error_detail {
                None => lane.acknowledged(flight),
                Some(error) => lane.refused(flight, &error.message),
            };
            if again.is_none() {
                (request.response_nonce, request.error_detail) = (nonce, asked.error_detail);
            }
        }
        let first = !std::mem::replace(&mut lane.opened, true);
        let names = lane.wanted(kind, asked.resource_names);
        request.resource_names_subscribe = names.difference(&lane.names).cloned().collect();
        request.resource_names_unsubscribe = lane.names.difference(&names).cloned().collect();
        lane.names = names;
        let says_something = first
            || request.node.is_some()
            || !request.response_nonce.is_empty()
            || !request.resource_names_subscribe.is_empty()
            || !request.resource_names_unsubscribe.is_empty();
        Heard { request: Some(request).filter(|_| says_something), again }
    }

    pub fn tell(&mut self, response: Response) -> Told {
        let kind = Type::of_url(response.type_url);
        let lane = kind.map(|kind| self.lanes.entry(kind).or_default());
        let Some(lane) = lane else {
            return Told { type_url: response.type_url, nonce: response.nonce, resources: Vec::new() };
        };
        lane.times = if lane.of == response.nonce { lane.times + 1 } else { 1 };
        lane.of.clone_from(&response.nonce);
        lane.nonce = match lane.times {
            1 => response.nonce.clone(),
            times => format!("{}.{times}", response.nonce),
        };
        let (type_url, nonce) = (response.type_url, lane.nonce.clone());
        let added: Set = response.resources.iter().flat_map(elements).collect();
        if !kind.is_some_and(is_told_as_a_whole) {
            let resources = added.into_values().collect();
            lane.flight = Some(Flight { response, added: Set::new(), offered: Set::new() });
            return Told { type_url, nonce, resources };
        }
        for name in &response.removed {
            lane.presumed.remove(name.as_bytes());
        }
        let mut offered = lane.accepted.clone();
        let insert = |(name, body): (&Bytes, &Bytes)| (name.clone(), body.clone());
        offered.extend(lane.presumed.iter().map(insert));
        for name in &response.removed {
            offered.remove(name.as_bytes());
        }
        offered.extend(added.iter().map(insert));
        if !lane.names.contains(ALL) {
            offered.retain(|name, _| std::str::from_utf8(name).is_ok_and(|name| lane.names.contains(name)));
        }
        let resources = offered.values().cloned().collect();
        lane.flight = Some(Flight { response, added, offered });
        Told { type_url, nonce, resources }
    }
}

/// Absence removes what is told as a whole.
fn is_told_as_a_whole(kind: Type) -> bool {
    matches!(kind, Type::Cluster | Type::Listener)
}

impl Lane {
    /// The names of a request, with one for everything.
    fn wanted(&mut self, kind: Type, names: Vec<String>) -> BTreeSet<String> {
        self.by_name |= !names.is_empty();
        match is_told_as_a_whole(kind) && !self.by_name {
            true => [ALL.to_owned()].into(),
            false => names.into_iter().collect(),
        }
    }

    fn acknowledged(&mut self, flight: Flight) -> Option<Response> {
        self.accepted = flight.offered;
        self.presumed.clear();
        None
    }

    /// A NACK. Answers with the response that is to be told again, when it says nothing about that response.
    fn refused(&mut self, flight: Flight, reason: &str) -> Option<Response> {
        if flight.response.resources.is_empty() {
            // The session will not speak of them any more.
            flight.response.removed.iter().for_each(|name| drop(self.accepted.remove(name.as_bytes())));
            return None;
        }
        let blamed = flight.blamed(reason);
        let Flight { response, added, offered } = flight;
        let others = |presumed: &Set| presumed.keys().filter(|name| !added.contains_key(*name)).count();
        let before = others(&self.presumed);
        self.presumed.retain(|name, _| !blamed.contains(name));
        if added.len() != 1 {
            if !blamed.is_empty() {
                let rest = added.into_iter().filter(|(name, _)| !blamed.contains(name));
                self.presumed.extend(rest);
            }
            return None;
        }
        if before > 0 && !added.keys().any(|name| blamed.contains(name)) {
            if others(&self.presumed) == before {
                self.presumed.clear();
            }
            return Some(response);
        }
        for name in added.keys() {
            self.presumed.remove(name);
            // Should it have been good once, it is not any more.
            if self.accepted.get(name) == offered.get(name) {
                self.accepted.remove(name);
            }
        }
        None
    }
}

impl Flight {
    /// What of the offered a reason names, as a word of its own.
    fn blamed(&self, reason: &str) -> BTreeSet<Bytes> {
        let reason = &reason[..reason.floor_char_boundary(REASON_MAX)];
        let words = reason.split(|letter: char| letter.is_whitespace() || QUOTES.contains(letter));
        let bare = words.flat_map(|word| [word.trim_end_matches(':'), word.trim_matches(PUNCTUATION)]);
        let named = bare.filter_map(|word| self.offered.get_key_value(word.as_bytes()));
        named.map(|(name, _)| name.clone()).collect()
    }
}

/// As much of a delta response as one of the session's chunks holds.
#[derive(Clone, PartialEq, prost::Message)]
struct Chunk {
    #[prost(message, repeated, tag = "2")]
    resources: Vec<Element>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Element {
    /// An `Any`.
    #[prost(bytes = "bytes", tag = "2")]
    resource: Bytes,
    #[prost(bytes = "bytes", tag = "3")]
    name: Bytes,
}

/// The resource of a chunk, as slices of it.
fn elements(chunk: &Bytes) -> impl Iterator<Item = (Bytes, Bytes)> {
    let chunk = Chunk::decode(chunk.clone()).expect("a chunk is part of a response");
    chunk.resources.into_iter().map(|element| (element.name, element.resource))
}

/// The fields of a `DiscoveryResponse`.
const VERSION: u32 = 1;
const RESOURCES: u32 = 2;
const TYPE_URL: u32 = 4;
const NONCE: u32 = 5;

impl Told {
    /// The number of bytes that [`Told::encode_into`] writes.
    pub fn encoded_len(&self) -> usize {
        let resource = |any: &Bytes| key_len(RESOURCES) + encoded_len_varint(any.len() as u64) + any.len();
        self.resources.iter().map(resource).sum::<usize>()
            + string::encoded_len(VERSION, &Version::of(&[]).to_string())
            + string::encoded_len(TYPE_URL, &self.type_url.to_owned())
            + string::encoded_len(NONCE, &self.nonce)
    }

    /// Writes the message. Its version is the hash of what it says, so that it stands behind that.
    pub fn encode_into(&self, buf: &mut Vec<u8>) {
        let start = buf.len();
        for any in &self.resources {
            encode_key(RESOURCES, WireType::LengthDelimited, buf);
            encode_varint(any.len() as u64, buf);
            buf.extend_from_slice(any);
        }
        let version = Version::of(&buf[start..]).to_string();
        string::encode(VERSION, &version, buf);
        string::encode(TYPE_URL, &self.type_url.to_owned(), buf);
        string::encode(NONCE, &self.nonce, buf);
    }
}

#[cfg(test)]
mod tests;
