//! Writes against a replicated store as fast as it acknowledges them, and tells how long each took. It speaks to the nodes
//! of global through their REST API and to etcd through its gRPC, over TLS and with one connection a client in both, so
//! that the two can be compared in one run. `zones` are followers by the hundred. `disk` and `network` measure what no store can do without.
mod etcd;
mod floor;
mod global;
mod papers;
mod run;
mod zones;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};
use std::{path::PathBuf, time::Duration};

/// Measures writes to a replicated store, the zones that follow, and the disk and the network below. Prints lines of JSON.
///
/// Times are in milliseconds.
#[derive(Parser)]
#[command(
    name = "write-load",
    version,
    after_help = "Examples:
  write-load global --target https://127.0.0.1:5682 --ca-file ca.crt --token-file admin-token --clients 64
  write-load etcd --target https://127.0.0.1:2379 --ca-file ca.crt --clients 64
  write-load zones --target https://127.0.0.1:5682 --link https://127.0.0.1:5685 --ca-file ca.crt \\
      --token-file admin-token --dir zones --count 100 --policies 100 --reconnect 3
  write-load disk --dir /var/lib/weft
  write-load network"
)]
struct Cli {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Puts documents at the nodes of global
    Global {
        #[command(flatten)]
        load: Load,
        /// A file with a token of an administrator
        #[arg(long)]
        token_file: PathBuf,
    },
    /// Puts values of the same size into etcd
    Etcd {
        #[command(flatten)]
        load: Load,
    },
    /// Lets zones without proxies follow global, and measures what reaches them; a line of JSON for each thing
    Zones {
        #[command(flatten)]
        load: zones::Load,
    },
    /// Makes an authority and a certificate for 127.0.0.1 with which a store serves clients and its members meet
    Papers {
        /// Where `ca.crt`, `node.crt` and `node.key` are written
        #[arg(long)]
        dir: PathBuf,
    },
    /// Appends to a file with fdatasync after each write
    Disk {
        /// Where the file is made, and removed
        #[arg(long)]
        dir: PathBuf,
        /// Bytes of one write
        #[arg(long, default_value_t = 4096)]
        bytes: usize,
        #[arg(long, default_value = "300")]
        writes: u32,
    },
    /// Sends a message of the size of a write through a TCP connection on this host and back
    Network {
        #[arg(long, default_value_t = 512)]
        bytes: usize,
        #[arg(long, default_value = "2000")]
        trips: u32,
    },
}

#[derive(Args)]
struct Load {
    /// A node, as `https://host:port`; clients are spread over all that are named
    #[arg(long = "target", required = true)]
    targets: Vec<String>,
    /// The authority of the nodes' certificates, PEM
    #[arg(long)]
    ca_file: PathBuf,
    /// Clients that write at the same time, each the next value when the last one is acknowledged
    #[arg(long, default_value_t = 1)]
    clients: usize,
    /// How long is measured, after the warm-up
    #[arg(long, default_value = "5", value_parser = seconds)]
    seconds: Duration,
    /// How long is written before
    #[arg(long, default_value = "1", value_parser = seconds)]
    warm_up: Duration,
    /// Bytes of a value
    #[arg(long, default_value_t = 512)]
    bytes: usize,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<f64>().map_err(|error| error.to_string())?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

#[tokio::main]
async fn main() -> Result<()> {
    shared_node::tls::install_crypto();
    let measured = match Cli::parse().what {
        What::Global { load, token_file } => {
            run::run(&load, &global::Nodes::new(&load.targets, &load.ca_file, &token_file, load.bytes)?)
                .await?
        }
        What::Etcd { load } => run::run(&load, &etcd::Members::new(&load)?).await?,
        What::Zones { load } => return zones::run(load).await,
        What::Papers { dir } => return papers::make(&dir),
        What::Disk { dir, bytes, writes } => floor::disk(&dir, bytes, writes)?,
        What::Network { bytes, trips } => floor::network(bytes, trips).await?,
    };
    println!("{}", serde_json::to_string(&measured)?);
    Ok(())
}
