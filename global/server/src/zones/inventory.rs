//! The proxies of one zone as it tells them: the whole first, then what changes, numbered so that a gap is seen. Pure.
use super::naming;
use proto::link::{Inventory as Message, ProxyEntry};
use serde_json::Value;
use shared_model::{Resource, kind, labels};
use std::{collections::BTreeMap, sync::Arc};

/// The largest proxy that is taken, in bytes of its two documents. A usual one has two or three thousand.
const PROXY_MAX: usize = 256 << 10;
/// How much a zone may tell in all, in bytes of documents: a hundred thousand usual proxies.
const WHOLE_MAX: usize = 256 << 20;

/// One proxy.
#[derive(Clone, Debug, PartialEq)]
pub struct Proxy {
    /// Under the zone's own name for it, with the labels of a resource that came from a zone.
    pub dataplane: Arc<Resource>,
    /// Its name at global where the plain one is not enough.
    pub hashed: String,
    pub insight: Option<Arc<Value>>,
    /// Of its documents, in bytes.
    size: usize,
}

/// A message whose documents are read: the work that is done before anybody is kept waiting.
#[derive(Debug)]
pub struct Update {
    sequence: u64,
    complete: bool,
    removed: Vec<Name>,
    entries: Vec<(Name, Result<Proxy, String>)>,
}

impl Update {
    pub fn read(zone: &str, message: Message) -> Update {
        let Message { sequence, complete, removed, upserts } = message;
        let entry = |entry: ProxyEntry| ((entry.mesh.clone(), entry.name.clone()), read(zone, &entry));
        Update {
            sequence,
            complete,
            removed: removed.into_iter().map(|gone| (gone.mesh, gone.name)).collect(),
            entries: upserts.into_iter().map(entry).collect(),
        }
    }
}

/// Mesh and name.
type Name = (String, String);

#[derive(Debug, Default)]
pub struct Inventory {
    proxies: BTreeMap<Name, Proxy>,
    by_hash: BTreeMap<Name, Name>,
    /// Of all documents, in bytes.
    size: usize,
    sequence: u64,
    /// The whole has come on the present stream.
    complete: bool,
}

impl Inventory {
    /// A new stream begins. What is known stays until the zone tells the whole again.
    pub fn restart(&mut self) {
        self.sequence = 0;
        self.complete = false;
    }

    /// Takes the next message. The reason of an error closes the link; a proxy that cannot be read is left out, and
    /// named in the answer.
    pub fn take(&mut self, update: Update) -> Result<Vec<String>, String> {
        let first = self.sequence == 0 && !self.complete;
        if !first && update.sequence != self.sequence.wrapping_add(1) {
            return Err(format!("inventory {} came after {}", update.sequence, self.sequence));
        }
        if update.complete {
            self.proxies.clear();
            self.by_hash.clear();
            self.size = 0;
            self.complete = true;
        } else if !self.complete {
            return Err("the first inventory of a link is not the whole".to_owned());
        }
        self.sequence = update.sequence;
        for gone in update.removed {
            self.remove(&gone);
        }
        let mut problems = Vec::new();
        for (name, proxy) in update.entries {
            self.remove(&name);
            let fits = |proxy: &Proxy| self.size + proxy.size <= WHOLE_MAX;
            match proxy {
                Ok(proxy) if fits(&proxy) => {
                    self.size += proxy.size;
                    self.by_hash.insert((name.0.clone(), proxy.hashed.clone()), name.clone());
                    self.proxies.insert(name, proxy);
                }
                Ok(_) => problems.push(format!("{}/{}: the zone has told too much already", name.0, name.1)),
                Err(reason) => problems.push(format!("{}/{}: {reason}", name.0, name.1)),
            }
        }
        Ok(problems)
    }

    pub fn get(&self, mesh: &str, name: &str) -> Option<&Proxy> {
        self.proxies.get(&(mesh.to_owned(), name.to_owned()))
    }

    pub fn by_hash(&self, mesh: &str, hashed: &str) -> Option<&Proxy> {
        self.proxies.get(self.by_hash.get(&(mesh.to_owned(), hashed.to_owned()))?)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&Name, &Proxy)> {
        self.proxies.iter()
    }

    fn remove(&mut self, name: &Name) {
        if let Some(proxy) = self.proxies.remove(name) {
            self.size -= proxy.size;
            self.by_hash.remove(&(name.0.clone(), proxy.hashed));
        }
    }
}

fn read(zone: &str, entry: &ProxyEntry) -> Result<Proxy, String> {
    let size = entry.dataplane.len() + entry.insight.len();
    if size > PROXY_MAX {
        return Err(format!("it has {size} bytes, {PROXY_MAX} are allowed"));
    }
    let document = serde_json::from_slice(&entry.dataplane).map_err(|error| format!("not JSON: {error}"))?;
    let mut dataplane = Resource::from_json(&document)
        .map_err(|problems| problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))?;
    if (dataplane.kind.as_str(), &dataplane.mesh, &dataplane.name)
        != (kind::DATAPLANE, &entry.mesh, &entry.name)
    {
        return Err(format!("the entry holds {}", dataplane.key()));
    }
    let time = |field: &str| document[field].as_str().and_then(|text| text.parse().ok());
    dataplane.creation_time = time("creationTime").unwrap_or_default();
    dataplane.modification_time = time("modificationTime").unwrap_or_default();
    dataplane.labels.insert(labels::ZONE.to_owned(), zone.to_owned());
    dataplane.labels.insert(labels::ORIGIN.to_owned(), labels::ORIGIN_ZONE.to_owned());
    dataplane.labels.insert(labels::MESH.to_owned(), dataplane.mesh.clone());
    let display = dataplane.display_name().to_owned();
    dataplane.labels.insert(labels::DISPLAY_NAME.to_owned(), display);
    let insight = serde_json::from_slice(&entry.insight).ok().filter(|insight: &Value| insight.is_object());
    Ok(Proxy {
        hashed: naming::hashed(&dataplane),
        dataplane: Arc::new(dataplane),
        insight: insight.map(Arc::new),
        size,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::link::ProxyName;
    use serde_json::json;

    fn entry(name: &str) -> ProxyEntry {
        let dataplane = json!({"type": "Dataplane", "mesh": "default", "name": name,
            "networking": {"address": "10.0.0.1", "inbound": [{"port": 80, "tags": {"kuma.io/service": "web"}}]}});
        ProxyEntry {
            mesh: "default".into(),
            name: name.into(),
            dataplane: dataplane.to_string().into_bytes().into(),
            insight: br#"{"subscriptions":[]}"#.as_slice().into(),
        }
    }

    fn whole(sequence: u64, names: &[&str]) -> Message {
        let upserts = names.iter().map(|name| entry(name)).collect();
        Message { sequence, complete: true, upserts, removed: Vec::new() }
    }

    fn take(inventory: &mut Inventory, message: Message) -> Result<Vec<String>, String> {
        inventory.take(Update::read("east", message))
    }

    fn names(inventory: &Inventory) -> Vec<&str> {
        inventory.iter().map(|((_, name), _)| name.as_str()).collect()
    }

    #[test]
    fn deltas_follow_the_whole_in_order() {
        let mut inventory = Inventory::default();
        assert_eq!(take(&mut inventory, whole(1, &["a", "b"])), Ok(vec![]));
        let gone = ProxyName { mesh: "default".into(), name: "a".into() };
        let delta = Message { sequence: 2, complete: false, upserts: vec![entry("c")], removed: vec![gone] };
        assert_eq!(take(&mut inventory, delta.clone()), Ok(vec![]));
        assert_eq!(names(&inventory), ["b", "c"]);
        assert!(take(&mut inventory, Message { sequence: 4, ..delta }).is_err());
        let proxy = inventory.get("default", "c").expect("there").clone();
        assert_eq!(proxy.dataplane.zone(), Some("east"));
        assert_eq!(inventory.by_hash("default", &proxy.hashed), Some(&proxy));
    }

    #[test]
    fn a_new_stream_begins_with_the_whole_and_forgets_nothing_before() {
        let mut inventory = Inventory::default();
        assert!(take(&mut inventory, Message { sequence: 1, ..Message::default() }).is_err());
        take(&mut inventory, whole(1, &["a"])).expect("taken");
        inventory.restart();
        assert_eq!(names(&inventory), ["a"]);
        take(&mut inventory, whole(1, &["b"])).expect("taken");
        assert_eq!(names(&inventory), ["b"]);
    }

    #[test]
    fn a_proxy_that_cannot_be_read_does_not_hide_the_others() {
        let mut inventory = Inventory::default();
        let mut message = whole(1, &["a", "b"]);
        message.upserts[0].dataplane = b"{}".as_slice().into();
        assert_eq!(take(&mut inventory, message).expect("taken").len(), 1);
        assert_eq!(names(&inventory), ["b"]);
    }

    #[test]
    fn memory_is_bounded_by_proxy_and_by_zone() {
        let mut inventory = Inventory::default();
        let mut message = whole(1, &["a", "b"]);
        message.upserts[0].insight = vec![b' '; PROXY_MAX].into();
        assert!(take(&mut inventory, message).expect("taken")[0].contains("262144 are allowed"));
        assert_eq!(names(&inventory), ["b"]);
        inventory.size += WHOLE_MAX - inventory.size;
        let more = Message { complete: false, ..whole(2, &["b", "c"]) };
        assert!(
            take(&mut inventory, more).expect("taken")[0].contains("default/c: the zone has told too much")
        );
        // What is known may still change, and go.
        assert_eq!(names(&inventory), ["b"]);
        assert_eq!(take(&mut inventory, whole(3, &["c"])), Ok(vec![]));
        assert_eq!(inventory.size, entry("c").dataplane.len() + entry("c").insight.len());
    }
}
