//! Many proxies: started, ordered about, and looked at as a whole.
use crate::connection::Dial;
use crate::documents::{self, Style};
use crate::envoy::{Envoy, Names};
use crate::graph::Graph;
use crate::node;
use crate::proxy::{self, Common, Order, Proxy};
use crate::target::Entry;
use crate::wire::{Kind, Protocol};
use anyhow::{Result, bail};
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// How often the fleet is looked at while something is waited for. Stamps are made by the proxies, not by this.
const LOOK: Duration = Duration::from_millis(20);

pub struct Fleet {
    pub proxies: Vec<Arc<Proxy>>,
    start: Instant,
    /// One for each zone.
    commons: Vec<Arc<Common>>,
    orders: AtomicU64,
}

/// What a fleet is made of.
pub struct Plan<'a> {
    pub graph: &'a Graph,
    pub style: Style,
    pub protocol: Protocol,
    /// Whether proxies bring their Dataplanes along.
    pub introduce: bool,
    pub extensions: usize,
    pub keep_bodies: bool,
}

/// Where the proxies of a zone get in.
pub struct Door {
    pub dial: Dial,
    pub entry: Entry,
}

/// Sums over the fleet, for differences.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Sums {
    pub responses: u64,
    pub resources: u64,
    pub bytes: u64,
    pub refusals: u64,
    pub connects: u64,
    pub breaks: u64,
    pub stalls: u64,
}

impl Sums {
    pub fn since(self, before: Sums) -> Sums {
        Sums {
            responses: self.responses - before.responses,
            resources: self.resources - before.resources,
            bytes: self.bytes - before.bytes,
            refusals: self.refusals - before.refusals,
            connects: self.connects - before.connects,
            breaks: self.breaks - before.breaks,
            stalls: self.stalls - before.stalls,
        }
    }
}

impl Fleet {
    /// Makes the proxies, those of the plan behind every door, each a task that waits for its first order. Must be called
    /// inside a run time.
    pub fn new(plan: &Plan<'_>, doors: &[Door]) -> Fleet {
        let start = Instant::now();
        let names: Arc<Names> = Arc::default();
        let extensions = node::extensions(plan.extensions);
        let (mut proxies, mut commons) = (Vec::new(), Vec::new());
        for (zone, Door { dial, entry }) in doors.iter().enumerate() {
            let common = Arc::new(Common {
                dial: dial.clone(),
                protocol: plan.protocol,
                start,
                count_moves: AtomicBool::new(false),
                sight_replicas: AtomicBool::new(false),
            });
            let graph = plan.graph.in_zone(zone);
            proxies.extend((0..graph.proxies()).map(|index| {
                let (name, service) = (graph.name_of(index), graph.service_of(index));
                let mut metadata = entry.metadata.clone();
                if plan.introduce {
                    let dataplane = documents::dataplane(plan.style, &graph, index);
                    metadata["dataplane.resource"] = dataplane.body.to_string().into();
                }
                let id = format!("{}.{name}", documents::MESH);
                let node = node::node(&id, &graph.services[service].name, &metadata, &extensions);
                let envoy = Envoy::new(plan.protocol, names.clone(), plan.keep_bodies);
                let token = entry.token_of(service);
                Arc::new(Proxy::new(index, name, token, node, envoy, common.clone()))
            }));
            commons.push(common);
        }
        for proxy in &proxies {
            tokio::spawn(proxy.clone().run());
        }
        Fleet { proxies, start, commons, orders: AtomicU64::new(0) }
    }

    pub fn now(&self) -> u64 {
        proxy::nanos_since(self.start)
    }

    pub fn count_moves(&self, on: bool) {
        self.commons.iter().for_each(|common| common.count_moves.store(on, Relaxed));
    }

    pub fn sight_replicas(&self, on: bool) {
        self.commons.iter().for_each(|common| common.sight_replicas.store(on, Relaxed));
    }

    pub fn connect(&self) {
        self.proxies.iter().for_each(|proxy| proxy.order(Order::Run));
    }

    pub fn disconnect(&self) {
        self.proxies.iter().for_each(|proxy| proxy.order(Order::Stay));
    }

    pub fn reconnect(&self, proxies: impl Iterator<Item = usize>) {
        let order = Order::Reconnect(self.orders.fetch_add(1, Relaxed));
        proxies.for_each(|index| self.proxies[index].order(order));
    }

    pub fn sums(&self) -> Sums {
        let mut sums = Sums::default();
        for proxy in &self.proxies {
            let stats = &proxy.stats;
            sums.responses += stats.responses.load(Relaxed);
            sums.resources += stats.resources.load(Relaxed);
            sums.bytes += stats.bytes.load(Relaxed);
            sums.refusals += stats.refusals.load(Relaxed);
            sums.connects += stats.connects.load(Relaxed);
            sums.breaks += stats.breaks.load(Relaxed);
            sums.stalls += stats.stalls.load(Relaxed);
        }
        sums
    }

    /// Waits until `done` holds for the fleet and nothing has come for `quiet`, from now on.
    pub async fn settle(
        &self,
        what: &str,
        quiet: Duration,
        deadline: Duration,
        done: impl Fn(&Fleet) -> bool,
    ) -> Result<()> {
        let (end, begun) = (Instant::now() + deadline, self.now());
        let quiet = u64::try_from(quiet.as_nanos()).unwrap_or(u64::MAX);
        loop {
            let last =
                self.proxies.iter().map(|proxy| proxy.stats.last_response.load(Relaxed)).max().unwrap_or(0);
            let rested = self.now().saturating_sub(last.max(begun)) >= quiet;
            if rested && done(self) {
                return Ok(());
            }
            if Instant::now() >= end {
                bail!("{what}: not within {deadline:?}; {}", self.describe());
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// How the fleet is, in a sentence, for an error.
    fn describe(&self) -> String {
        let live = self.proxies.iter().filter(|proxy| proxy.stats.live_at.load(Relaxed) > 0).count();
        let endpoints: usize = self.proxies.iter().map(|proxy| proxy.envoy().endpoints()).sum();
        let sums = self.sums();
        let trouble =
            self.proxies.iter().find_map(|proxy| Some(format!("{}: {}", proxy.name, proxy.trouble()?)));
        let waits = self.proxies.iter().find_map(|proxy| {
            let awaits = proxy.envoy().awaits();
            (!awaits.is_empty()).then(|| format!("{} awaits {}", proxy.name, awaits.join(", ")))
        });
        format!(
            "{live} of {} proxies have everything, {endpoints} endpoints in all, {} streams opened and {} broken, \
             {} waits of 15 s in vain for an assignment of a cluster that changed; {}; {}",
            self.proxies.len(),
            sums.connects,
            sums.breaks,
            sums.stalls,
            trouble.unwrap_or_else(|| "no stream broke".to_owned()),
            waits.unwrap_or_else(|| "none awaits anything".to_owned())
        )
    }

    /// True when every proxy has everything that it asked for, and all endpoints that the graph says.
    pub fn is_complete(&self, graph: &Graph) -> bool {
        self.proxies.iter().all(|proxy| {
            proxy.stats.live_at.load(Relaxed) > 0 && {
                let envoy = proxy.envoy();
                envoy.is_live() && envoy.endpoints() >= graph.endpoints_of(proxy.index)
            }
        })
    }

    /// The mean count per proxy and the mean size in bytes of what is held, by type.
    pub fn holdings(&self) -> BTreeMap<&'static str, Holding> {
        let proxies = self.proxies.len().max(1) as f64;
        let of = |kind: Kind| {
            let (mut count, mut bytes) = (0u64, 0u64);
            for proxy in &self.proxies {
                for held in proxy.envoy().held(kind).values() {
                    count += 1;
                    bytes += u64::from(held.len);
                }
            }
            let mean = if count == 0 { 0.0 } else { bytes as f64 / count as f64 };
            Holding { resources_per_proxy: count as f64 / proxies, bytes_per_resource: mean }
        };
        Kind::ALL.into_iter().map(|kind| (kind.name(), of(kind))).collect()
    }
}

#[derive(Clone, Copy, Debug, Serialize)]
pub struct Holding {
    pub resources_per_proxy: f64,
    pub bytes_per_resource: f64,
}
