//! A client of the cluster that notes what it asks and what it is told.
use crate::{
    documents::MESH,
    history::{Did, Expected, Found, Operation, Place, ReadKind, Recorder, UNTOLD, Written},
    http::{Answer, Connection},
};
use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use hyper::Method;
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};
use tokio::time::{Instant, sleep, timeout_at};

/// Where a node serves its REST API, and which of its lives that is.
#[derive(Clone, Debug)]
pub struct Door {
    pub place: Place,
    pub api: SocketAddr,
}

/// The doors of all nodes, as they are now.
#[derive(Clone, Debug, Default)]
pub struct Doors(Arc<Mutex<Vec<Door>>>);

impl Doors {
    pub fn all(&self) -> Vec<Door> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn set(&self, doors: Vec<Door>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = doors;
    }

    pub fn any(&self) -> Result<Door> {
        let mut all = self.all();
        ensure!(!all.is_empty(), "there is no node");
        Ok(all.swap_remove(rand::random_range(0..all.len())))
    }
}

/// One attempt takes at most this long: a client that hears nothing from a node asks another.
const ATTEMPT: Duration = Duration::from_millis(2_500);

/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(10);

/// Most that one page of a list holds.
const PAGE: usize = 1000;

static IDS: AtomicU32 = AtomicU32::new(1);

pub struct Client {
    pub id: u32,
    pub doors: Doors,
    pub recorder: Recorder,
    connections: BTreeMap<SocketAddr, Connection>,
    writes: u32,
}

/// How a write is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wish {
    pub expected: Expected,
    /// With an idempotency key: an attempt without an answer is sent again, to any node.
    pub once: bool,
    /// How long attempts go on.
    pub patience: Duration,
}

pub fn path_of(key: &str) -> String {
    format!("/meshes/{MESH}/meshtimeouts/{key}")
}

impl Client {
    pub fn new(doors: &Doors, recorder: &Recorder) -> Client {
        let id = IDS.fetch_add(1, Ordering::Relaxed);
        let (doors, recorder) = (doors.clone(), recorder.clone());
        Client { id, doors, recorder, connections: BTreeMap::new(), writes: 0 }
    }

    /// A key that nobody else has.
    pub fn new_key(&mut self) -> String {
        self.writes += 1;
        format!("k-{}-{}", self.id, self.writes)
    }

    /// Writes a value of its own to a key, through any node, or through one.
    pub async fn put(&mut self, key: &str, wish: Wish, through: Option<&Door>) -> Written {
        self.writes += 1;
        let value = format!("v-{}-{}", self.id, self.writes);
        let body = document(key, &value);
        let mut headers = Vec::new();
        let tag = match wish.expected {
            Expected::At(revision) => format!("\"{revision}\""),
            _ => String::new(),
        };
        match wish.expected {
            Expected::Any => {}
            Expected::Absent => headers.push(("if-none-match", "*")),
            Expected::At(_) => headers.push(("if-match", tag.as_str())),
        }
        if wish.once {
            headers.push(("idempotency-key", value.as_str()));
        }
        let pending = self.recorder.note_unknown(self.id, key, &value, wish.expected);
        let deadline = Instant::now() + wish.patience;
        let mut open = false;
        let outcome = loop {
            let Ok(door) = through.cloned().map_or_else(|| self.doors.any(), Ok) else {
                break Written::Unknown;
            };
            let answer = self.send(door.api, Method::PUT, &path_of(key), &headers, &body, deadline).await;
            match answer.map(|answer| (answer.status, answer.revision)) {
                Ok((200 | 201, Some(revision))) => break Written::Acknowledged(revision),
                // A conflict after an attempt without an answer may be with that attempt.
                Ok((400..500, _)) if !open || wish.once => break Written::Refused,
                Ok((400..500, _)) => break Written::Unknown,
                _ => open = true,
            }
            let can_repeat = wish.once || wish.expected != Expected::Any;
            if !can_repeat || Instant::now() + PAUSE >= deadline {
                break Written::Unknown;
            }
            sleep(PAUSE).await;
        };
        self.recorder.settle(pending, outcome);
        outcome
    }

    /// Reads a key at a door. An error when it was not answered, which is no offence.
    pub async fn get(&mut self, key: &str, kind: ReadKind, door: &Door) -> Result<Option<Found>> {
        let query = if kind == ReadKind::Stale { "?consistency=stale" } else { "" };
        let begin = self.recorder.clock.now();
        let path = format!("{}{query}", path_of(key));
        let deadline = Instant::now() + ATTEMPT;
        let answer = self.send(door.api, Method::GET, &path, &[], &Bytes::new(), deadline).await?;
        let found = match answer.status {
            200 => Some(found_in(&answer.json::<Value>()?)?),
            404 => None,
            _ => bail!("status {}: {}", answer.status, answer.text()),
        };
        // A refusal of what is not there names no revision: it is of use where an earlier one did.
        if let Some(seen) = answer.revision {
            let (key, place, found) = (key.to_owned(), door.place.clone(), found.clone());
            let did = Did::Read { key, place, kind, seen, found };
            self.recorder.note(Operation { client: self.id, begin, end: self.recorder.clock.now(), did });
        }
        Ok(found)
    }

    /// Reads all keys at a door, and notes what it finds, or does not find, of every key that was ever written. A zone does
    /// not tell what it has seen, but its state is a prefix of the log: what it has at all it has up to its newest revision.
    pub async fn audit(&mut self, kind: ReadKind, door: &Door) -> Result<usize> {
        let mut keys: BTreeMap<String, Option<Found>> = BTreeMap::new();
        for operation in self.recorder.so_far() {
            if let Did::Wrote { key, .. } = operation.did {
                keys.insert(key, None);
            }
        }
        let begin = self.recorder.clock.now();
        let mut seen = None;
        let mut offset = 0;
        loop {
            let stale = if kind == ReadKind::Stale { "&consistency=stale" } else { "" };
            let path = format!("/meshes/{MESH}/meshtimeouts?size={PAGE}&offset={offset}{stale}");
            let deadline = Instant::now() + ATTEMPT;
            let answer =
                self.send(door.api, Method::GET, &path, &[], &Bytes::new(), deadline).await?.good()?;
            let page: Value = answer.json()?;
            // Pages of different revisions are no state: something was still on its way.
            let here = answer.revision.context("a list names no revision")?;
            ensure!(*seen.get_or_insert(here) == here, "the revision has changed between two pages");
            let items = page["items"].as_array().context("a list has items")?;
            for item in items {
                let name = item["name"].as_str().context("a resource has a name")?;
                if let Some(found) = keys.get_mut(name) {
                    *found = Some(found_in(item)?);
                }
            }
            offset += items.len();
            if items.is_empty() || page["next"].is_null() {
                break;
            }
        }
        let end = self.recorder.clock.now();
        let newest = keys.values().flatten().map(|found| found.revision).max();
        let told = seen.filter(|seen| *seen != UNTOLD);
        let seen = told.or(newest).unwrap_or(UNTOLD);
        let count = keys.len();
        for (key, found) in keys {
            let did = Did::Read { key, place: door.place.clone(), kind, seen, found };
            self.recorder.note(Operation { client: self.id, begin, end, did });
        }
        Ok(count)
    }

    async fn send(
        &mut self,
        address: SocketAddr,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: &Bytes,
        deadline: Instant,
    ) -> Result<Answer> {
        let deadline = deadline.min(Instant::now() + ATTEMPT);
        let kept = self.connections.remove(&address).filter(|kept| !kept.is_closed());
        let exchange = async {
            let mut connection = match kept {
                Some(kept) => kept,
                None => Connection::open(address).await?,
            };
            let answer = connection.send_with(method, path, headers, body.clone()).await?;
            Ok::<_, anyhow::Error>((connection, answer))
        };
        let (connection, answer) = timeout_at(deadline, exchange).await.context("no answer in time")??;
        self.connections.insert(address, connection);
        Ok(answer)
    }
}

fn document(key: &str, value: &str) -> Bytes {
    let spec = json!({
        "targetRef": {"kind": "Mesh"},
        "to": [{"targetRef": {"kind": "Mesh"}, "default": {"idleTimeout": "1h"}}],
    });
    let labels = json!({ "value": value });
    let document = json!({"type": "MeshTimeout", "mesh": MESH, "name": key, "labels": labels, "spec": spec});
    Bytes::from(document.to_string())
}

fn found_in(resource: &Value) -> Result<Found> {
    let value = resource["labels"]["value"].as_str().context("a register has a value")?.to_owned();
    let revision = resource["revision"].as_u64().context("a resource has a revision")?;
    Ok(Found { value, revision })
}
