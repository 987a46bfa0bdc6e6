//! Nodes of global as they are measured: programs of the release profile on ports of this machine, without anything
//! between them and whoever calls.
use super::lab::Lab;
use anyhow::{Context, Result, bail};
use chaos_tests_process::{
    cluster::ControlPlane, http, ports, process::Launch, programs::profile_dir, wait::until,
};
use hyper::Method;
use serde_json::{Value, json};
use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

const HERE: Ipv4Addr = Ipv4Addr::LOCALHOST;

/// They end when it is dropped.
pub struct Globals {
    /// How `write-load` is told where they are: `--target` of each, the authority, the first token.
    pub args: Vec<String>,
    /// Where zones dial the first.
    pub link: String,
    _running: Vec<ControlPlane>,
}

impl Globals {
    /// Starts so many nodes with their data below `dir`, and returns when all vote.
    pub async fn start(lab: &Lab, dir: &Path, nodes: usize) -> Result<Globals> {
        let program = PathBuf::from(lab.program("global-cp"));
        let mut running: Vec<ControlPlane> = Vec::new();
        let mut args = Vec::new();
        let mut first = None;
        for at in 0..nodes {
            let [api, https, link, peers, diagnostics] = [(); 5].map(|()| free_port());
            let data_dir = dir.join(format!("global-{at}"));
            let mut launch = Launch::new(&format!("global-{at}"), &program, dir)
                .arg("run")
                .flag("--data-dir", &data_dir)
                .flag("--api-bind", api.to_string())
                .flag("--api-https-bind", https.to_string())
                .flag("--link-bind", link.to_string())
                .flag("--peer-bind", peers.to_string())
                .flag("--diagnostics-bind", diagnostics.to_string());
            match first {
                None => first = Some((peers, link)),
                Some((seed, _)) => {
                    let body = json!({}).to_string().into();
                    let token =
                        http::call(running[0].api, Method::POST, "/_cluster/join-tokens", body).await?;
                    let file = dir.join(format!("join-{at}"));
                    fs::write(&file, token.good()?.body)?;
                    launch = launch.flag("--join", format!("https://{seed}")).flag("--join-token-file", file);
                }
            }
            let mut node = ControlPlane::new(launch, api, diagnostics, data_dir);
            node.start().await?;
            running.push(node);
            args.extend(["--target".to_owned(), format!("https://{https}")]);
        }
        let (_, link) = first.context("no node was asked for")?;
        until(&format!("{nodes} voters"), || async {
            let view: Value = running[0].get("/_cluster").await?.json()?;
            let all = view["nodes"].as_array().into_iter().flatten();
            match all.filter(|node| node["role"] == "follower").count() {
                followers if followers == nodes - 1 => Ok(()),
                followers => bail!("{followers} nodes follow"),
            }
        })
        .await?;
        let home = &running[0].data_dir;
        for (flag, file) in
            [("--ca-file", home.join("tls/ca.crt")), ("--token-file", home.join("admin-token"))]
        {
            args.extend([flag.to_owned(), file.to_string_lossy().into_owned()]);
        }
        Ok(Globals { args, link: format!("https://{link}"), _running: running })
    }
}

pub fn free_port() -> SocketAddr {
    SocketAddr::from((HERE, ports::free(&[HERE.into()])))
}

/// A directory for a bench, beside the programs that are measured. Whoever makes it removes it.
pub fn new_dir(name: &str) -> Result<PathBuf> {
    let target = profile_dir()?.parent().context("the target directory has no parent")?.join("tmp");
    let dir = target.join(format!("bench-{name}-{}", std::process::id()));
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    Ok(dir)
}
