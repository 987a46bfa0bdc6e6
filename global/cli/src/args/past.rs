//! Former versions and backups.
use super::{Format, Mesh};
use clap::Args;
use std::path::PathBuf;

#[derive(Debug, Args)]
#[command(after_help = "\
The control plane keeps former versions up to a number and a size (historyVersions and historyBytes of its \
configuration); of secrets only who wrote them and when, of Dataplanes nothing.

Examples:
  weftctl history meshtimeout slow
  weftctl history mtp allow-web -m staging -o json")]
pub struct History {
    /// Kind of the resource
    pub kind: String,
    /// Name of the resource
    pub name: String,
    #[command(flatten)]
    pub mesh: Mesh,
    /// How to show it
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    pub output: Format,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Contents of secrets are never shown. Colours appear on a terminal only; NO_COLOR turns them off.

Examples:
  weftctl diff --from 812 --to 815
  weftctl diff --from 812                          # up to now
  weftctl diff --from 812 --to 815 meshtimeout slow -m staging")]
pub struct Diff {
    /// The earlier revision
    #[arg(long, value_name = "REVISION")]
    pub from: u64,
    /// The later revision; the newest when left out
    #[arg(long, value_name = "REVISION")]
    pub to: Option<u64>,
    /// Only this resource: its kind
    #[arg(requires = "name")]
    pub kind: Option<String>,
    /// Only this resource: its name
    pub name: Option<String>,
    #[command(flatten)]
    pub mesh: Mesh,
    /// How to show it; a table is a unified diff
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    pub output: Format,
}

#[derive(Debug, Args)]
#[command(after_help = "\
A rollback is a write like any other: it makes a new revision, and is refused when somebody else has written the \
resource meanwhile. A resource that did not exist at the revision is deleted, one that was deleted since is made again.

Examples:
  weftctl history meshtimeout slow
  weftctl rollback meshtimeout slow --to 812 --dry-run
  weftctl rollback meshtimeout slow --to 812 --wait")]
pub struct Rollback {
    /// Kind of the resource
    pub kind: String,
    /// Name of the resource
    pub name: String,
    /// The revision whose state comes back
    #[arg(long, value_name = "REVISION")]
    pub to: u64,
    #[command(flatten)]
    pub mesh: Mesh,
    /// Only show what would change
    #[arg(long)]
    pub dry_run: bool,
    /// Wait until the proxies of every zone have acknowledged it
    #[arg(long, conflicts_with = "dry_run")]
    pub wait: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
The file holds one consistent state at one revision, with the cluster's CA; what is secret in it stays sealed with \
the cluster's seal key. That key is NOT in the file and nothing can be restored without it: keep a copy of \
<data-dir>/seal.key of any node of global (all have the same) in another place than the backups, and a new one after \
each `weftctl cluster rotate-seal-key`.

Examples:
  weftctl backup weft-$(date +%F).backup
  weftctl backup --server https://cp-1:5682,https://cp-2:5682 --ca-cert-file ca.crt --token-file admin weft.backup")]
pub struct Backup {
    /// Where to write it; mode 0600
    pub file: PathBuf,
    /// Replace a file that is there
    #[arg(long)]
    pub force: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Stop every node of the old cluster first. The file and the seal key are verified before anything is written; then \
start `global-cp run --data-dir DIR` there, and let the other nodes join it on empty disks (`weftctl cluster add`). \
A restored cluster is in a new epoch: zones that have seen a revision after the backup do not follow by themselves, \
see `weftctl zone accept-restore --help`.

This runs `global-cp restore`, which must be installed here.

Examples:
  weftctl restore weft.backup --check
  weftctl restore weft.backup --data-dir /var/lib/weft/global --seal-key-file seal.key")]
pub struct Restore {
    /// The backup
    pub file: PathBuf,
    /// The empty data directory of the first node
    #[arg(long, value_name = "DIR", required_unless_present = "check")]
    pub data_dir: Option<PathBuf>,
    /// A copy of the old cluster's seal.key [default: DIR/seal.key; env: WEFT_SEAL_KEY holds it as 64 hexadecimal digits]
    #[arg(long, value_name = "FILE")]
    pub seal_key_file: Option<PathBuf>,
    /// Only verify the file and say what is in it
    #[arg(long, conflicts_with_all = ["data_dir", "seal_key_file"])]
    pub check: bool,
}
