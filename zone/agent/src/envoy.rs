//! The Envoy that is run: where it is, which one it is, and how it is started.
use crate::args::Run;
use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::process::Command;

/// The release line that this version is tested with.
const TESTED: &str = "1.40.";
/// How long `envoy --version` may take; the first start of a large program reads it from the disk.
const VERSION_WITHIN: Duration = Duration::from_secs(20);

/// What `envoy --version` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// Such as `1.40.0`.
    pub number: String,
    /// The whole of it: commit, number, state of the tree, build, TLS library.
    pub build: String,
}

impl Version {
    pub fn is_tested(&self) -> bool {
        self.number.starts_with(TESTED)
    }

    /// Reads `envoy  version: <commit>/<number>/<tree>/<build>/<tls>`.
    fn parse(output: &str) -> Option<Version> {
        let (_, build) = output.split_once("version:")?;
        let build = build.split_whitespace().next()?;
        let parts: Vec<&str> = build.split('/').collect();
        let number = parts.get(1).filter(|_| parts.len() == 5)?;
        Some(Version { number: (*number).to_owned(), build: build.to_owned() })
    }
}

/// Finds Envoy: as told, else in `PATH`, else beside this program, as a checkout and a package put it.
pub fn find(told: Option<&Path>) -> Result<PathBuf> {
    if let Some(path) = told {
        if !path.is_file() {
            bail!("there is no Envoy at {}", path.display());
        }
        return path.canonicalize().with_context(|| format!("cannot find {}", path.display()));
    }
    let in_path = env::var_os("PATH").unwrap_or_default();
    let beside = env::current_exe().ok();
    let beside = beside.as_deref().and_then(Path::parent);
    candidates(&in_path, beside)
        .into_iter()
        .find(|path| path.is_file())
        .context("there is no envoy in PATH or beside weft-dp: give --envoy-path")
}

fn candidates(in_path: &OsString, beside: Option<&Path>) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> =
        env::split_paths(in_path).filter(|dir| dir.is_absolute()).map(|dir| dir.join("envoy")).collect();
    if let Some(dir) = beside {
        paths.push(dir.join("envoy"));
        paths.extend(dir.parent().map(|target| target.join("tools/envoy")));
    }
    paths
}

/// Asks a program whether it is an Envoy, and which.
pub async fn version(path: &Path) -> Result<Version> {
    let mut command = Command::new(path);
    command.arg("--version").stdin(std::process::Stdio::null()).kill_on_drop(true);
    let output = match tokio::time::timeout(VERSION_WITHIN, command.output()).await {
        Ok(output) => output.with_context(|| format!("cannot run {}", path.display()))?,
        Err(_) => bail!(
            "{} --version did not answer within {}",
            path.display(),
            shared_model::Duration(VERSION_WITHIN)
        ),
    };
    let text = String::from_utf8_lossy(&output.stdout);
    let first = || text.lines().find(|line| !line.trim().is_empty()).unwrap_or("nothing").trim().to_owned();
    Version::parse(&text)
        .with_context(|| format!("{} is not an Envoy: --version printed {:?}", path.display(), first()))
}

/// Envoy's command line, the program first.
pub fn command_line(envoy: &Path, bootstrap: &Path, args: &Run) -> Vec<OsString> {
    let level = args.envoy_log_level.to_possible_value().expect("no level is hidden").get_name().to_owned();
    // A drain shorter than a second is rounded up: Envoy counts in seconds, and 0 would mean none at all.
    let drain = args.drain_time.as_secs() + u64::from(args.drain_time.subsec_nanos() > 0);
    let mut line: Vec<OsString> = vec![envoy.into(), "--config-path".into(), bootstrap.into()];
    let mut flag = |name: &str, value: String| line.extend([OsString::from(name), value.into()]);
    flag("--drain-time-s", drain.to_string());
    flag("--drain-strategy", "immediate".to_owned());
    flag("--log-level", level);
    if let Some(threads) = args.concurrency {
        flag("--concurrency", threads.to_string());
    }
    line.push("--disable-hot-restart".into());
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Command as Verb};
    use clap::Parser;

    #[test]
    fn a_version_has_five_parts() {
        let text = "\n/usr/bin/envoy  version: 0123abc/1.40.0/Clean/RELEASE/BoringSSL\n\n";
        let version = Version::parse(text).expect("a version");
        assert_eq!(version.number, "1.40.0");
        assert!(version.is_tested());
        assert!(!Version { number: "1.41.0".into(), ..version }.is_tested());
        for other in ["", "version: 1.40.0", "GNU bash, version 5.2", "x version: a/b/c/d/e/f"] {
            assert_eq!(Version::parse(other), None, "{other}");
        }
    }

    #[test]
    fn the_command_line_drains_at_once() {
        let line = "weft-dp run --cp-address https://h:1 --dataplane-token-file t --name n --drain-time 1500ms --concurrency 1";
        let Verb::Run(args) = Cli::try_parse_from(line.split(' ')).expect("good arguments").command else {
            panic!("not run");
        };
        let line = command_line(Path::new("/bin/envoy"), Path::new("/w/bootstrap.yaml"), &args);
        let line: Vec<&str> = line.iter().filter_map(|part| part.to_str()).collect();
        assert_eq!(
            line.join(" "),
            "/bin/envoy --config-path /w/bootstrap.yaml --drain-time-s 2 --drain-strategy immediate \
            --log-level warning --concurrency 1 --disable-hot-restart"
        );
    }

    #[test]
    fn envoy_is_never_looked_for_where_one_happens_to_stand() {
        let paths = candidates(&"relative:/usr/bin::.".into(), Some(Path::new("/repo/target/debug")));
        let expected = ["/usr/bin/envoy", "/repo/target/debug/envoy", "/repo/target/tools/envoy"];
        assert_eq!(paths, expected.map(PathBuf::from));
    }
}
