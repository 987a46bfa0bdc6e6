//! A cluster of `global-cp` processes and the zones that follow it, with every wire between them under control.
//!
//! Each node listens for peers and for zones on ports of its own, and advertises the ports of gates before them
//! ([`crate::network`]). Clients reach the REST API directly: what a client sees is what the node says.
use crate::{
    client::{Client, Door, Doors, Wish},
    cluster::ControlPlane,
    device::Disk,
    documents::MESH,
    history::{Expected, Place, ReadKind, Recorder, Written},
    http::{self, Answer},
    network::Network,
    ports,
    process::Launch,
    programs::Programs,
    wait::{until, until_within},
};
use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use hyper::Method;
use serde::Deserialize;
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

const HERE: Ipv4Addr = Ipv4Addr::LOCALHOST;

const NAMES: [&str; 9] = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine"];

/// `GET /_cluster`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterView {
    pub cluster_id: String,
    pub nodes: Vec<NodeView>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeView {
    pub node: String,
    pub address: String,
    pub role: String,
    pub term: Option<u64>,
    pub last_index: Option<u64>,
    pub lag: Option<u64>,
}

/// One `global-cp`.
pub struct Node {
    pub control_plane: ControlPlane,
    pub name: String,
    life: u32,
    /// What the others dial, and how the cluster calls it.
    pub peers: SocketAddr,
    link: SocketAddr,
}

pub struct Globals {
    pub nodes: Vec<Node>,
    pub zones: BTreeMap<String, ControlPlane>,
    pub network: Network,
    pub doors: Doors,
    pub recorder: Recorder,
    pub dir: PathBuf,
    /// What the nodes' data lie on: ends after them.
    disks: BTreeMap<String, Disk>,
    pub programs: Programs,
    /// Further environment of the nodes.
    env: BTreeMap<String, String>,
}

impl Node {
    pub fn door(&self) -> Door {
        let place = Place { node: self.name.clone(), life: self.life };
        Door { place, api: self.control_plane.api }
    }

    pub fn data_dir(&self) -> &Path {
        &self.control_plane.data_dir
    }

    /// Where zones dial it.
    pub fn link_url(&self) -> String {
        format!("https://{}", self.link)
    }
}

fn free_port() -> SocketAddr {
    SocketAddr::from((HERE, ports::free(&[HERE.into()])))
}

impl Globals {
    /// Starts so many nodes, each with its data in the place that `home` gives it, and a Mesh.
    pub async fn start(
        programs: &Programs,
        dir: &Path,
        count: usize,
        home: impl Fn(&str) -> PathBuf,
        env: BTreeMap<String, String>,
    ) -> Result<Globals> {
        let mut globals = Globals {
            nodes: Vec::new(),
            zones: BTreeMap::new(),
            network: Network::default(),
            doors: Doors::default(),
            recorder: Recorder::default(),
            dir: dir.to_owned(),
            disks: BTreeMap::new(),
            programs: programs.clone(),
            env,
        };
        for name in &NAMES[..count] {
            globals.add_node(name, &home(name)).await.with_context(|| format!("the start of {name}"))?;
        }
        globals.until_whole().await?;
        let body = json!({"type": "Mesh", "name": MESH});
        globals.nodes[0].control_plane.put(&format!("/meshes/{MESH}"), &body).await?;
        Ok(globals)
    }

    /// Starts a node: a new cluster if it is the first, else one that joins by way of the leader.
    pub async fn add_node(&mut self, name: &str, data_dir: &Path) -> Result<()> {
        self.spawn_joining(name, data_dir).await?;
        let last = self.nodes.last_mut().context("it was just added")?;
        last.control_plane.until_ready().await
    }

    /// As [`Globals::add_node`], without waiting until it is ready.
    pub async fn spawn_joining(&mut self, name: &str, data_dir: &Path) -> Result<()> {
        let [api, https, diagnostics, peer_bind, link_bind] = [(); 5].map(|()| free_port());
        let network = self.network.clone();
        let [peers, link] = [
            network.gate(name, ports::free(&[HERE.into()]), peer_bind).await?,
            network.gate(name, ports::free(&[HERE.into()]), link_bind).await?,
        ];
        let mut launch = Launch::new(name, &self.programs.global_cp, &self.dir)
            .arg("run")
            .flag("--data-dir", data_dir)
            .flag("--api-bind", api.to_string())
            .flag("--api-https-bind", https.to_string())
            .flag("--link-bind", link_bind.to_string())
            .flag("--link-advertise", format!("https://{link}"))
            .flag("--peer-bind", peer_bind.to_string())
            .flag("--peer-advertise", peers.to_string())
            .flag("--diagnostics-bind", diagnostics.to_string());
        launch.env = self.env.clone();
        let control_plane = ControlPlane::new(launch, api, diagnostics, data_dir.to_owned());
        let node = Node { control_plane, name: name.to_owned(), life: 0, peers, link };
        let joins = !self.nodes.is_empty();
        if joins {
            let by = self.join_token(name).await?;
            self.nodes.push(node);
            self.joins_by(self.nodes.len() - 1, by);
        } else {
            self.nodes.push(node);
        }
        self.spawn_node(self.nodes.len() - 1)
    }

    /// A node whose disk was wiped, and which has ended, comes back with a new token.
    pub async fn rejoin(&mut self, at: usize) -> Result<()> {
        let by = self.join_token(&self.nodes[at].name).await?;
        self.joins_by(at, by);
        if self.nodes[at].control_plane.is_running() {
            self.kill_node(at)?;
        } else {
            self.nodes[at].life += 1;
        }
        self.start_node(at).await
    }

    fn joins_by(&mut self, at: usize, (door, token): (SocketAddr, PathBuf)) {
        let args = &mut self.nodes[at].control_plane.launch_mut().args;
        // The flags of an earlier join stand last.
        if let Some(place) = args.iter().position(|arg| arg == "--join") {
            args.truncate(place);
        }
        let join = format!("https://{door}");
        args.extend(["--join".into(), join.into(), "--join-token-file".into(), token.into_os_string()]);
    }

    /// The port of a living node, and a file with a token with which another may join there.
    pub async fn join_token(&self, name: &str) -> Result<(SocketAddr, PathBuf)> {
        let leader = &self.nodes[self.leader().await?];
        let token = post(leader.control_plane.api, "/_cluster/join-tokens", &json!({})).await?.good()?;
        let file = self.dir.join(format!("{name}.join-token"));
        fs::write(&file, token.body).with_context(|| format!("cannot write {}", file.display()))?;
        Ok((leader.peers, file))
    }

    pub fn publish_doors(&self) {
        self.doors.set(self.nodes.iter().map(Node::door).collect());
    }

    /// Starts a node and does not wait for it.
    pub fn spawn_node(&mut self, at: usize) -> Result<()> {
        let node = &mut self.nodes[at];
        node.control_plane.spawn()?;
        let process = node.control_plane.id().context("it was just started")?;
        self.network.owns(&node.name, process);
        self.publish_doors();
        Ok(())
    }

    pub async fn start_node(&mut self, at: usize) -> Result<()> {
        self.spawn_node(at)?;
        self.nodes[at].control_plane.until_ready().await
    }

    /// SIGKILL. What it served has ended: after its restart it is another place.
    pub fn kill_node(&mut self, at: usize) -> Result<()> {
        let node = &mut self.nodes[at];
        node.control_plane.kill()?;
        node.life += 1;
        self.publish_doors();
        Ok(())
    }

    /// Starts a zone that follows.
    pub async fn add_zone(&mut self, name: &str) -> Result<()> {
        self.prepare_zone(name).await?;
        self.start_zone(name).await
    }

    /// Makes a zone's token, and what is to be started. It is told of one node: the others it learns.
    pub async fn prepare_zone(&mut self, name: &str) -> Result<()> {
        let leader = self.leader().await?;
        let seed = &self.nodes[leader];
        let asked = json!({"zone": name, "scope": ["cp"], "validFor": "24h"});
        let token = post(seed.control_plane.api, "/tokens/zone", &asked).await?.good()?;
        let token_file = self.dir.join(format!("{name}.zone-token"));
        fs::write(&token_file, token.body)
            .with_context(|| format!("cannot write {}", token_file.display()))?;
        let [api, xds, diagnostics] = [(); 3].map(|()| free_port());
        let data_dir = self.dir.join(name);
        let launch = Launch::new(name, &self.programs.zone_cp, &self.dir)
            .arg("run")
            .flag("--zone", name)
            .flag("--data-dir", &data_dir)
            .flag("--global", seed.link_url())
            .flag("--global-ca-file", seed.data_dir().join("tls").join("ca.crt"))
            .flag("--zone-token-file", &token_file)
            .flag("--xds-bind", xds.to_string())
            .flag("--api-bind", api.to_string())
            .flag("--diagnostics-bind", diagnostics.to_string());
        self.zones.insert(name.to_owned(), ControlPlane::new(launch, api, diagnostics, data_dir));
        Ok(())
    }

    pub fn spawn_zone(&mut self, name: &str) -> Result<()> {
        let zone = self.zones.get_mut(name).with_context(|| format!("there is no zone {name}"))?;
        zone.spawn()?;
        self.network.owns(name, zone.id().context("it was just started")?);
        Ok(())
    }

    pub async fn start_zone(&mut self, name: &str) -> Result<()> {
        self.spawn_zone(name)?;
        let zone = self.zones.get_mut(name).with_context(|| format!("there is no zone {name}"))?;
        zone.until_ready().await
    }

    pub fn zone(&self, name: &str) -> Result<&ControlPlane> {
        self.zones.get(name).with_context(|| format!("there is no zone {name}"))
    }

    pub fn zone_mut(&mut self, name: &str) -> Result<&mut ControlPlane> {
        self.zones.get_mut(name).with_context(|| format!("there is no zone {name}"))
    }

    /// The door of a zone's own API: one place for ever, because its revisions never go back.
    pub fn zone_door(&self, name: &str) -> Result<Door> {
        Ok(Door { place: Place { node: name.to_owned(), life: 0 }, api: self.zone(name)?.api })
    }

    /// No wire between a zone and any node, or all of them whole again.
    pub fn cut_zone(&self, zone: &str, cut: bool) {
        for node in &self.nodes {
            match cut {
                true => self.network.cut(zone, &node.name),
                false => self.network.mend(zone, &node.name),
            }
        }
    }

    /// Cuts a node from all other nodes; zones still reach it.
    pub fn isolate(&self, at: usize) {
        for (i, other) in self.nodes.iter().enumerate() {
            if i != at {
                self.network.cut(&self.nodes[at].name, &other.name);
            }
        }
    }

    /// What one node says of the cluster.
    pub async fn view(&self, at: usize) -> Result<ClusterView> {
        http::get(self.nodes[at].control_plane.api, "/_cluster").await?.good()?.json()
    }

    /// The place of the node that a majority's view names as the leader of the highest term.
    pub async fn leader(&self) -> Result<usize> {
        if self.nodes.len() == 1 {
            return Ok(0);
        }
        until("a leader", || async { self.leader_now().await }).await
    }

    /// As [`Globals::leader`], without waiting: the one that leads by its own word, in the highest term that is seen.
    async fn leader_now(&self) -> Result<usize> {
        let mut best: Option<(u64, usize)> = None;
        for at in 0..self.nodes.len() {
            let view = tokio::time::timeout(VIEW_PATIENCE, self.view(at)).await;
            let Ok(Ok(view)) = view else { continue };
            let Some(leads) = view.nodes.iter().find(|node| node.role == "leader") else { continue };
            let place = self.nodes.iter().position(|node| node.peers.to_string() == leads.address);
            best = best.max(place.map(|place| (leads.term.unwrap_or_default(), place)));
        }
        best.map(|(_, place)| place).context("no node names a leader")
    }

    /// Every node runs, votes, and has all that the leader has.
    pub async fn until_whole(&self) -> Result<()> {
        until("every node to vote and to have everything", || async { self.is_whole().await }).await
    }

    async fn is_whole(&self) -> Result<()> {
        let ours: BTreeSet<String> = self.nodes.iter().map(|node| node.peers.to_string()).collect();
        for node in &self.nodes {
            node.control_plane.check_not_gone()?;
        }
        for at in 0..self.nodes.len() {
            let view = self.view(at).await?;
            let good = |node: &&NodeView| {
                matches!(node.role.as_str(), "leader" | "follower") && node.lag.is_some_and(|lag| lag < 50)
            };
            let there: BTreeSet<String> =
                view.nodes.iter().filter(good).map(|node| node.address.clone()).collect();
            ensure!(there == ours, "{} sees {:?}", self.nodes[at].name, view.nodes);
        }
        Ok(())
    }

    /// Heals all wires, wakes and starts all that should run, and waits until the cluster is whole.
    pub async fn restore(&mut self) -> Result<()> {
        self.network.heal();
        for at in 0..self.nodes.len() {
            let control_plane = &mut self.nodes[at].control_plane;
            match control_plane.is_running() {
                true => control_plane.resume()?,
                false => self.spawn_node(at)?,
            }
        }
        for node in &mut self.nodes {
            node.control_plane.until_ready().await?;
        }
        let zones: Vec<String> = self.zones.keys().cloned().collect();
        for zone in &zones {
            let control_plane = self.zone_mut(zone)?;
            match control_plane.is_running() {
                true => control_plane.resume()?,
                false => self.start_zone(zone).await?,
            }
        }
        self.until_whole().await
    }

    /// Keeps these disks for as long as the nodes need them.
    pub fn hold(&mut self, disks: BTreeMap<String, Disk>) {
        self.disks = disks;
    }

    pub fn disks(&self) -> &BTreeMap<String, Disk> {
        &self.disks
    }

    /// Lets the disks go.
    pub fn release(&mut self) -> BTreeMap<String, Disk> {
        std::mem::take(&mut self.disks)
    }

    pub fn client(&self) -> Client {
        Client::new(&self.doors, &self.recorder)
    }

    /// How long after `since` a write is acknowledged that begins now at any of these nodes.
    pub async fn until_written(&self, since: Instant, through: &[usize]) -> Result<Duration> {
        let mut attempts = tokio::task::JoinSet::new();
        for at in through {
            let (mut client, door) = (self.client(), self.nodes[*at].door());
            attempts.spawn(async move {
                let wish = Wish { expected: Expected::Absent, once: true, patience: Duration::from_secs(30) };
                let key = client.new_key();
                client.put(&key, wish, Some(&door)).await
            });
        }
        while let Some(written) = attempts.join_next().await {
            if let Written::Acknowledged(_) = written? {
                // The others are given up: what became of them is not known.
                return Ok(since.elapsed());
            }
        }
        bail!("no write was acknowledged within 30 s")
    }

    /// Every acknowledged write is there, at the first node that can tell, and what each of the others has is a state too.
    pub async fn audit(&self) -> Result<()> {
        for (at, node) in self.nodes.iter().enumerate() {
            let kind = if at == 0 { ReadKind::Linearizable } else { ReadKind::Stale };
            let what = format!("the audit of {}", node.name);
            let door = node.door();
            until_within(AUDIT_PATIENCE, &what, || async { self.client().audit(kind, &door).await }).await?;
        }
        Ok(())
    }

    /// Waits until a zone has this key.
    pub async fn until_zone_has(&self, zone: &str, key: &str) -> Result<()> {
        let door = self.zone_door(zone)?;
        until(&format!("{zone} to have {key}"), || async {
            let found = self.client().get(key, ReadKind::Stale, &door).await?;
            found.map(|_| ()).context("it is not there")
        })
        .await
    }

    /// What the first node that answers says of the zones' links.
    pub async fn online_zones(&self, at: usize) -> Result<BTreeSet<String>> {
        let path = "/_revisions/1?consistency=stale";
        let status: Value = http::get(self.nodes[at].control_plane.api, path).await?.good()?.json()?;
        let zones = status["zones"].as_array().context("a revision's status has zones")?;
        let online = zones.iter().filter(|zone| zone["online"] == true);
        Ok(online.filter_map(|zone| zone["zone"].as_str()).map(str::to_owned).collect())
    }
}

const VIEW_PATIENCE: Duration = Duration::from_millis(1_500);

const AUDIT_PATIENCE: Duration = Duration::from_secs(30);

pub async fn post(address: SocketAddr, path: &str, body: &Value) -> Result<Answer> {
    http::call(address, Method::POST, path, Bytes::from(body.to_string())).await
}
