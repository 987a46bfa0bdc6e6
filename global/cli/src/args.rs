//! The command line: every command with its flags, help and examples.
mod past;

pub use past::{Backup, Diff, History, Restore, Rollback};

use crate::exit::CODES;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::{path::PathBuf, time::Duration};

#[derive(Debug, Parser)]
#[command(name = "weftctl", version, about = "Talks to the control plane of a Weft mesh.", after_help = CODES)]
#[command(disable_help_subcommand = true, propagate_version = false)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// Flags that every command takes.
#[derive(Clone, Debug, Default, Args)]
pub struct Global {
    /// Address of the API, for this call only: http://HOST:PORT or https://HOST:PORT; of several nodes, separated by
    /// commas, the next is asked when one does not answer [env: WEFT_SERVER]
    #[arg(
        long,
        global = true,
        help_heading = "Global options",
        value_name = "URL",
        conflicts_with = "context"
    )]
    pub server: Option<String>,
    /// Name of a server of the configuration (see `weftctl config`)
    #[arg(long, global = true, help_heading = "Global options", value_name = "NAME")]
    pub context: Option<String>,
    /// Certificate of the authority that signed the server's, PEM
    #[arg(long, global = true, help_heading = "Global options", value_name = "FILE")]
    pub ca_cert_file: Option<PathBuf>,
    /// File that holds the user token
    #[arg(long, global = true, help_heading = "Global options", value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Longest wait: for an answer of the server [default: 10s], with --wait or --watch for the proxies [default: 30s]
    #[arg(long, global = true, help_heading = "Global options", value_name = "DURATION", value_parser = duration)]
    pub timeout: Option<Duration>,
    /// Read what the server itself has, however old: without a quorum of the cluster's nodes nothing newer is known
    #[arg(long, global = true, help_heading = "Global options")]
    pub stale: bool,
    /// Where the servers are kept [default: ~/.weft/config.yaml]
    #[arg(long, global = true, help_heading = "Global options", value_name = "FILE", env = "WEFTCTL_CONFIG")]
    pub config: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Create or update resources from documents
    Apply(Apply),
    /// Show resources
    Get(Get),
    /// Delete a resource
    Delete(Delete),
    /// Show how far a revision has come, per zone
    Status(Status),
    /// Look into proxies and zones
    #[command(subcommand)]
    Inspect(Inspect),
    /// Make tokens
    #[command(subcommand)]
    Generate(Generate),
    /// The nodes of the global control plane: who they are, who joins, who votes, who leads
    #[command(subcommand)]
    Cluster(Cluster),
    /// What an operator decides about zones
    #[command(subcommand)]
    Zone(Zone),
    /// Show who changed a resource, and when
    History(History),
    /// Show what differs between two revisions, as a unified diff of YAML
    Diff(Diff),
    /// Bring a resource back to what it was at a revision
    Rollback(Rollback),
    /// Write everything that the control plane replicates to a file
    Backup(Backup),
    /// Start a control plane from a backup: verify the file and fill an empty data directory
    Restore(Restore),
    /// Keep addresses, certificates and tokens of several servers
    #[command(subcommand)]
    Config(Config),
    /// Show the versions of weftctl and of the server
    #[command(
        after_help = "Examples:\n  weftctl version\n  weftctl version --server https://global:5682 --ca-cert-file ca.crt"
    )]
    Version,
    /// Print a script that completes commands in a shell
    #[command(after_help = "\
Examples:
  weftctl completion bash > /etc/bash_completion.d/weftctl
  weftctl completion zsh > \"${fpath[1]}/_weftctl\"
  weftctl completion fish > ~/.config/fish/completions/weftctl.fish")]
    Completion {
        /// The shell
        shell: Shell,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Shell {
    Bash,
    Zsh,
    Fish,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Every document is read and validated before anything is sent: when one is not valid, nothing is sent, and each is \
reported. Meshes are sent before what lives in them; otherwise the order of the files counts.

Examples:
  weftctl apply -f mesh.yaml
  weftctl apply -f policies/ --wait --timeout 1m
  cat timeout.yaml | weftctl apply -f -
  weftctl apply -f dataplane.yaml -v name=web-1 -v address=10.0.0.1
  weftctl apply -f policies/ --dry-run            # asks the server too
  weftctl apply -f policies/ --dry-run=local      # needs no server

With --wait the exit code is 3 when a proxy refused, 4 when a zone is offline, 5 when the time ran out.")]
pub struct Apply {
    /// A file, a directory (its .yaml, .yml and .json files), or - for stdin; may be repeated
    #[arg(short, long = "filename", value_name = "FILE|DIR|-", required = true)]
    pub file: Vec<PathBuf>,
    /// Store nothing, only say what would happen: `server` asks the server, `local` does not need one
    #[arg(long, value_name = "WHERE", num_args = 0..=1, require_equals = true, default_missing_value = "server")]
    pub dry_run: Option<DryRun>,
    /// Wait until the proxies of every zone have acknowledged what was stored
    #[arg(long, conflicts_with = "dry_run")]
    pub wait: bool,
    /// Value for {{ KEY }} in the documents; may be repeated
    #[arg(short = 'v', long = "var", value_name = "KEY=VALUE", value_parser = pair)]
    pub vars: Vec<(String, String)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DryRun {
    Server,
    Local,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    #[default]
    Table,
    Yaml,
    Json,
}

/// Which mesh a command looks at.
#[derive(Clone, Debug, Args)]
pub struct Mesh {
    /// The mesh
    #[arg(short, long, value_name = "MESH", default_value = "default")]
    pub mesh: String,
}

#[derive(Debug, Args)]
#[command(after_help = "\
A kind goes by its name, its plural, its path or its short name, in any case: MeshTimeout, meshtimeouts, mt.

Examples:
  weftctl get meshes
  weftctl get dataplanes -m default
  weftctl get dp web-1 -o yaml
  weftctl get dataplanes -A --zone east --tag kuma.io/service=web --status stale --size 20
  weftctl get meshtimeouts -A -o json")]
pub struct Get {
    /// Kind of the resources
    pub kind: String,
    /// One resource; all of the kind when left out
    pub name: Option<String>,
    #[command(flatten)]
    pub mesh: Mesh,
    /// Resources of all meshes
    #[arg(short = 'A', long, conflicts_with_all = ["name", "mesh"])]
    pub all_meshes: bool,
    #[command(flatten)]
    pub filters: Filters,
    /// How to show it
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    pub output: Format,
}

/// What a list leaves out.
#[derive(Debug, Default, Args)]
pub struct Filters {
    /// Only those with this in their name
    #[arg(long = "name", value_name = "PART", conflicts_with = "name")]
    pub part: Option<String>,
    /// Only those of this zone
    #[arg(long, value_name = "ZONE", conflicts_with = "name")]
    pub zone: Option<String>,
    /// Only those with this label; may be given several times
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair, conflicts_with = "name")]
    pub label: Vec<(String, String)>,
    /// Only proxies with this tag; may be given several times
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair, conflicts_with = "name")]
    pub tag: Vec<(String, String)>,
    /// Only proxies that are in this state; `stale`: of a zone that is away
    #[arg(long, value_name = "STATE", conflicts_with = "name",
        value_parser = ["online", "partially_degraded", "offline", "stale"])]
    pub status: Option<String>,
    /// At most so many; all when left out
    #[arg(long, value_name = "NUMBER", conflicts_with = "name")]
    pub size: Option<usize>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  weftctl delete meshtimeout slow
  weftctl delete mesh staging
  weftctl delete mtp allow-web -m default --wait")]
pub struct Delete {
    /// Kind of the resource
    pub kind: String,
    /// Name of the resource
    pub name: String,
    #[command(flatten)]
    pub mesh: Mesh,
    /// Wait until the proxies of every zone have acknowledged the deletion
    #[arg(long)]
    pub wait: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
The exit code is 0 only when every zone has applied the revision and every proxy that it touches has acknowledged \
it; 3 when a proxy refused, 4 when a zone is offline, 5 when proxies are still pending.

Examples:
  weftctl status 812
  weftctl status latest --watch
  weftctl status latest --watch --timeout 5m -o json")]
pub struct Status {
    /// Number of the revision, or `latest`
    pub revision: String,
    /// Stay until the revision is done everywhere, or the time is up
    #[arg(long)]
    pub watch: bool,
    /// How to show it
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    pub output: Format,
}

#[derive(Debug, Subcommand)]
pub enum Inspect {
    /// Show one proxy: the policies that select it, or what its Envoy says
    #[command(after_help = "\
Examples:
  weftctl inspect dataplane web-1
  weftctl inspect dataplane web-1 --type config-dump
  weftctl inspect dataplane web-1 --type stats | grep rbac
  weftctl inspect dataplane web-1 --type clusters")]
    Dataplane(InspectDataplane),
    /// Show all proxies of a mesh: connected or not, what each acknowledged, until when its certificate holds
    #[command(
        after_help = "Examples:\n  weftctl inspect dataplanes\n  weftctl inspect dataplanes -m staging -o json"
    )]
    Dataplanes {
        #[command(flatten)]
        mesh: Mesh,
        /// How to show it
        #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
        output: Format,
    },
    /// Show all zones: connected or not, since when, which version
    #[command(after_help = "Examples:\n  weftctl inspect zones\n  weftctl inspect zones -o yaml")]
    Zones {
        /// How to show it
        #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
        output: Format,
    },
}

#[derive(Debug, Args)]
pub struct InspectDataplane {
    /// Name of the proxy
    pub name: String,
    #[command(flatten)]
    pub mesh: Mesh,
    /// What to show
    #[arg(long = "type", value_enum, default_value_t, value_name = "WHAT")]
    pub what: What,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum What {
    /// The policies that select the proxy
    #[default]
    Policies,
    /// Envoy's whole configuration, JSON
    ConfigDump,
    /// Envoy's counters
    Stats,
    /// Envoy's upstream clusters and their endpoints
    Clusters,
}

#[derive(Debug, Subcommand)]
pub enum Generate {
    /// Make a token for a proxy
    #[command(
        name = "dataplane-token",
        after_help = "\
What the token is not bound to, it does not restrict: without --name it is good for every proxy of the mesh.

Examples:
  weftctl generate dataplane-token --mesh default --name web-1 > token
  weftctl generate dataplane-token --tag kuma.io/service=web,web-admin --valid-for 24h > token
  weftctl generate dataplane-token --workload web > token"
    )]
    Dataplane {
        #[command(flatten)]
        mesh: Mesh,
        /// Only for the proxy of this name
        #[arg(long)]
        name: Option<String>,
        /// Only for proxies whose tag has one of these values; may be repeated
        #[arg(long = "tag", value_name = "KEY=VALUE[,VALUE...]", value_parser = pair)]
        tags: Vec<(String, String)>,
        /// Only for proxies with this label kuma.io/workload
        #[arg(long)]
        workload: Option<String>,
        /// How long the token is good for
        #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "8760h")]
        valid_for: Duration,
    },
    /// Make a token for a zone: for its control plane (cp), or for its zone proxies (ingress, egress)
    #[command(
        name = "zone-token",
        after_help = "\
Examples:
  weftctl generate zone-token --zone zone-1 --scope cp > zone-token
  weftctl generate zone-token --zone zone-1 --scope ingress,egress > proxy-token"
    )]
    Zone {
        /// Name of the zone
        #[arg(long)]
        zone: String,
        /// What the token opens; may be repeated
        #[arg(long, value_enum, required = true, value_delimiter = ',')]
        scope: Vec<ZoneScope>,
        /// How long the token is good for
        #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "8760h")]
        valid_for: Duration,
    },
    /// Make a token for a person or a script that uses the API
    #[command(
        name = "user-token",
        after_help = "\
Examples:
  weftctl generate user-token --name jane --valid-for 24h > token
  weftctl generate user-token --name ci --group mesh-system:admin > token"
    )]
    User {
        /// Name of the user
        #[arg(long)]
        name: String,
        /// A group that the user belongs to; may be repeated
        #[arg(long = "group", value_name = "GROUP")]
        groups: Vec<String>,
        /// How long the token is good for
        #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "720h")]
        valid_for: Duration,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ZoneScope {
    Cp,
    Ingress,
    Egress,
}

#[derive(Debug, Subcommand)]
pub enum Cluster {
    /// Show every node: its role, its log, its lag behind the leader
    #[command(after_help = "Examples:\n  weftctl cluster status\n  weftctl cluster status -o json")]
    Status {
        /// How to show it
        #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
        output: Format,
    },
    /// Print a token with which one node may join, once; it carries the fingerprint of the cluster's CA
    #[command(after_help = "\
Examples:
  weftctl cluster join-token > join-token
  global-cp run --data-dir /var/lib/weft/global --join https://cp-1:5683 --join-token-file join-token")]
    JoinToken {
        /// How long the token is good for, at most 24h
        #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "10m")]
        valid_for: Duration,
    },
    /// Print what to type on a new node, with a new join token
    #[command(after_help = "Examples:\n  weftctl cluster add\n  weftctl cluster add --data-dir /srv/weft")]
    Add {
        /// Data directory of the new node
        #[arg(long, value_name = "DIR", default_value = "/var/lib/weft/global")]
        data_dir: String,
        /// How long the token is good for, at most 24h
        #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "10m")]
        valid_for: Duration,
    },
    /// Make a node that has caught up a voter, also when their number becomes even
    #[command(
        after_help = "A node that joins becomes a voter by itself as soon as the number of voters stays odd.\n\nExamples:\n  weftctl cluster promote 4f1c"
    )]
    Promote {
        /// Address of the node, or the beginning of its id
        node: String,
    },
    /// Remove a node from the cluster
    #[command(after_help = "Examples:\n  weftctl cluster remove 4f1c\n  weftctl cluster remove cp-3:5683")]
    Remove {
        /// Address of the node, or the beginning of its id
        node: String,
    },
    /// Make a new key for all that is sealed, hand it to every node, and seal everything anew
    #[command(after_help = "\
Every node keeps the key in <data-dir>/seal.key. Copies of the old key open older backups only: copy the new one to \
where you keep it. A node that does not answer fetches the key when it is back.

Examples:
  weftctl cluster rotate-seal-key
  weftctl cluster rotate-seal-key -o json")]
    RotateSealKey {
        /// How to show it
        #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
        output: Format,
    },
    /// Hand the leadership over to a voter
    #[command(after_help = "Examples:\n  weftctl cluster transfer-leadership cp-2:5683")]
    TransferLeadership {
        /// Address of the node, or the beginning of its id
        node: String,
    },
}

#[derive(Debug, Subcommand)]
pub enum Zone {
    /// Let a zone follow a control plane that was restored, although it has seen later revisions
    #[command(after_help = "\
After a restore, a zone that has seen revisions which the backup does not hold goes on with what it has, and says so in \
its log and in `weftctl get zones`. Once it is accepted it takes the restored state, and its proxies are given what \
that says: what was changed after the backup is undone there too.

Examples:
  weftctl zone accept-restore zone-1
  weftctl zone accept-restore zone-1 zone-2
  weftctl zone accept-restore --all")]
    AcceptRestore {
        /// Names of the zones
        #[arg(required_unless_present = "all", value_name = "ZONE")]
        zones: Vec<String>,
        /// Every zone that global knows
        #[arg(long, conflicts_with = "zones")]
        all: bool,
    },
    /// Take the name of a zone from the store that it is bound to, for another one
    #[command(after_help = "\
A zone's store has a random id, and global binds it to the zone's name at first contact; another store under that name is \
refused, and both sides say so. After a rebind the next one to come gets the name, but not the one that has lost it: a zone \
whose disk was lost comes back this way.

Examples:
  weftctl zone rebind zone-1
  weftctl zone rebind zone-1 --to 0b5a6c9e-50f1-4d0f-9c5e-6f1d3c9e2a77")]
    Rebind {
        /// Name of the zone
        #[arg(value_name = "ZONE")]
        zone: String,
        /// The id of the store that gets the name; the zone tells it in its log
        #[arg(long, value_name = "ID")]
        to: Option<String>,
    },
}

#[derive(Debug, Subcommand)]
pub enum Config {
    /// Remember a server; the first one becomes the current one
    #[command(after_help = "\
The certificate and the token of the call are kept by the paths of their files.

Examples:
  weftctl config add prod --address https://global:5682 --use \\
          --ca-cert-file ca.crt --token-file admin-token
  weftctl config add lab --address http://127.0.0.1:5681 --no-check")]
    Add {
        /// What to call it
        name: String,
        /// http://HOST:PORT (loopback) or https://HOST:PORT; those of several nodes are separated by commas
        #[arg(long, value_name = "URL")]
        address: String,
        /// Make it the current server
        #[arg(long = "use")]
        make_current: bool,
        /// Replace a server of the same name
        #[arg(long)]
        overwrite: bool,
        /// Do not ask the server whether it is there
        #[arg(long)]
        no_check: bool,
    },
    /// Show all servers; the current one has a *
    #[command(after_help = "Examples:\n  weftctl config list")]
    List,
    /// Make a server the current one
    #[command(after_help = "Examples:\n  weftctl config use prod")]
    Use {
        /// What it is called
        name: String,
    },
    /// Forget a server
    #[command(after_help = "Examples:\n  weftctl config remove lab")]
    Remove {
        /// What it is called
        name: String,
    },
    /// Show the file of servers as it is
    #[command(after_help = "Examples:\n  weftctl config view")]
    View,
}

fn duration(text: &str) -> Result<Duration, String> {
    let duration = shared_model::Duration::parse(text)?;
    if duration.0.is_zero() { Err("must be longer than nothing".to_owned()) } else { Ok(duration.0) }
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => Ok((key.trim().to_owned(), value.to_owned())),
        _ => Err("write KEY=VALUE".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_examples() {
        fn walk(command: &clap::Command, path: &str) {
            let path = format!("{path} {}", command.get_name());
            if command.get_subcommands().next().is_none() {
                let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
                assert!(help.contains("Examples:"), "{path} has no examples");
            }
            command.get_subcommands().for_each(|sub| walk(sub, &path));
        }
        walk(&Cli::command(), "");
    }

    #[test]
    fn a_dry_run_asks_the_server_unless_told_otherwise() {
        let dry_run = |args: &[&str]| match Cli::try_parse_from(args).expect("good arguments").command {
            Command::Apply(apply) => apply.dry_run,
            other => panic!("{other:?}"),
        };
        assert_eq!(dry_run(&["weftctl", "apply", "-f", "x", "--dry-run"]), Some(DryRun::Server));
        assert_eq!(dry_run(&["weftctl", "apply", "-f", "x", "--dry-run=local"]), Some(DryRun::Local));
        assert_eq!(dry_run(&["weftctl", "apply", "-f", "x"]), None);
    }
}
