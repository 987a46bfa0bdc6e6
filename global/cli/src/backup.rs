//! `weftctl backup` and `weftctl restore`.
use crate::{
    app::Session,
    args::{Backup, Restore},
    client::Request,
    exit::{Code, Failure},
    out,
};
use anyhow::{Context, anyhow};
use indicatif::{ProgressBar, ProgressStyle};
use shared_api::backup::{self, Head};
use std::{
    fs,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

/// A large state takes a while on a slow line.
const WITHIN: Duration = Duration::from_secs(600);

/// What restores: it knows the disk of a node.
const PROGRAM: &str = "global-cp";

pub async fn run(session: &Session, args: Backup) -> Result<(), Failure> {
    let Backup { file, force } = args;
    if !force && fs::symlink_metadata(&file).is_ok() {
        let message = format!("{} exists: give --force to replace it", file.display());
        return Err(Failure::new(Code::Error, message));
    }
    let client = session.client()?;
    let bar = ProgressBar::new(0);
    bar.set_style(style());
    let within = Some(session.global.timeout.unwrap_or(WITHIN));
    let request = Request { path: &["_backup"], within, ..Request::default() };
    let bytes = client
        .download(request, |come, whole| {
            if let Some(whole) = whole {
                bar.set_length(whole);
            }
            bar.set_position(come);
        })
        .await?;
    bar.finish_and_clear();
    // What cannot be restored is no backup.
    let read = backup::read(&bytes).context("the server's backup cannot be used")?;
    store(&file, &bytes).with_context(|| format!("cannot write {}", file.display()))?;
    let Head { revision, epoch, resources, seal_key_id, .. } = &read.head;
    out::line(format_args!(
        "{}: {resources} resources at revision {revision} of epoch {epoch}, {} bytes",
        file.display(),
        bytes.len()
    ))?;
    out::line(format_args!(
        "to restore it, seal key {seal_key_id} is needed: it is not in the file (see --help)"
    ))
}

fn style() -> ProgressStyle {
    ProgressStyle::with_template("{bar:30} {bytes}/{total_bytes} {bytes_per_sec}")
        .unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// Complete or not at all, for its owner only.
fn store(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut next = path.as_os_str().to_owned();
    next.push(".next");
    let next = PathBuf::from(next);
    // One that a killed run left behind may have another mode.
    let _ = fs::remove_file(&next);
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&next)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all()).and_then(|()| fs::rename(&next, path));
    if written.is_err() {
        let _ = fs::remove_file(&next);
    }
    written
}

pub fn restore(args: Restore) -> Result<(), Failure> {
    let Restore { file, data_dir, seal_key_file, .. } = args;
    let bytes = fs::read(&file).map_err(|error| anyhow!("cannot read {}: {error}", file.display()))?;
    let read = backup::read(&bytes).map_err(|error| anyhow!("{}: {error}", file.display()))?;
    let Some(data_dir) = data_dir else { return tell(&read.head) };
    let mut command = Command::new(program());
    command.arg("restore").arg("--data-dir").arg(&data_dir);
    if let Some(key) = seal_key_file {
        command.arg("--seal-key-file").arg(key);
    }
    let status = command.arg("--").arg(&file).status().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            anyhow!("{PROGRAM} is not installed here: run `{PROGRAM} restore` where it is")
        }
        _ => anyhow!("cannot run {PROGRAM}: {error}"),
    })?;
    match status.success() {
        true => Ok(()),
        // It has said why.
        false => Err(Failure { code: Code::Error, message: None }),
    }
}

/// The one beside this program, else the one on the path.
fn program() -> PathBuf {
    let beside = std::env::current_exe().ok().map(|own| own.with_file_name(PROGRAM));
    beside.filter(|path| path.is_file()).unwrap_or_else(|| PathBuf::from(PROGRAM))
}

fn tell(head: &Head) -> Result<(), Failure> {
    for (what, value) in [
        ("cluster", head.cluster_id.clone()),
        ("epoch", head.epoch.clone()),
        ("revision", head.revision.to_string()),
        ("taken", head.time.to_rfc3339()),
        ("resources", head.resources.to_string()),
        ("version", head.version.clone()),
        ("seal key", head.seal_key_id.clone()),
    ] {
        out::line(format_args!("{what:<10} {value}"))?;
    }
    out::line("the file is whole")
}
