//! Where the programs lie: those of this workspace, and Envoy.
use anyhow::{Context, Result, bail};
use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

/// The packages whose programs a cluster needs, and the programs.
pub const PROGRAMS: [&str; 4] = ["global-cp", "zone-cp", "weft-dp", "weftctl"];

#[derive(Clone, Debug)]
pub struct Programs {
    pub global_cp: PathBuf,
    pub zone_cp: PathBuf,
    pub weft_dp: PathBuf,
    pub weftctl: PathBuf,
    pub envoy: PathBuf,
}

/// The root of the checkout.
pub fn workspace() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).expect("this crate lies two folders below the root").to_owned()
}

/// Cargo's target directory, from the place of the running program: `<target>/debug/xtask`, or a test's
/// `<target>/debug/deps/name-hash`.
pub fn profile_dir() -> Result<PathBuf> {
    let me = env::current_exe().context("cannot find the running program")?;
    let dir = me.ancestors().skip(1).find(|dir| !dir.ends_with("deps"));
    Ok(dir.context("the running program lies in no directory")?.to_owned())
}

/// Envoy as `cargo xtask tools` brings it; `WEFT_ENVOY` names another one.
pub fn envoy_path() -> Result<PathBuf> {
    if let Some(path) = env::var_os("WEFT_ENVOY") {
        return Ok(PathBuf::from(path));
    }
    let profile = profile_dir()?;
    let target = profile.parent().context("the target directory has no parent")?;
    Ok(target.join("tools").join("envoy"))
}

impl Programs {
    /// Finds them all, or tells which one is missing and how it is made.
    pub fn find() -> Result<Programs> {
        let dir = profile_dir()?;
        let [global_cp, zone_cp, weft_dp, weftctl] = PROGRAMS.map(|name| dir.join(name));
        let programs = Programs { global_cp, zone_cp, weft_dp, weftctl, envoy: envoy_path()? };
        for path in [&programs.global_cp, &programs.zone_cp, &programs.weft_dp, &programs.weftctl] {
            if !path.is_file() {
                bail!("there is no {}: run cargo build --workspace --bins", path.display());
            }
        }
        if !programs.envoy.is_file() {
            bail!("there is no {}: run cargo xtask tools", programs.envoy.display());
        }
        Ok(programs)
    }
}

/// The cargo that runs us. What it told us about ourselves (`CARGO_PKG_NAME` and the like) is kept from a cargo below:
/// build scripts that look at such variables would see a change and build half of the world again.
pub fn cargo() -> Command {
    const ABOUT_US: [&str; 6] = [
        "CARGO_PKG_",
        "CARGO_MANIFEST_",
        "CARGO_BIN_",
        "CARGO_CRATE_NAME",
        "CARGO_PRIMARY_PACKAGE",
        "CARGO_TARGET_TMPDIR",
    ];
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for (key, _) in env::vars_os() {
        let name = key.to_string_lossy();
        if ABOUT_US.iter().any(|prefix| name.starts_with(prefix)) {
            command.env_remove(&key);
        }
    }
    command.current_dir(workspace());
    command
}

/// Builds the programs as they are now. `--workspace` keeps one set of features, so that nothing is built twice.
pub fn build() -> Result<()> {
    let status = cargo().args(["build", "--workspace", "--bins"]).status().context("cannot start cargo")?;
    if !status.success() {
        bail!("cargo build ended with {status}");
    }
    Ok(())
}
