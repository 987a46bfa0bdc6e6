//! Where the programs lie: those of this workspace, and Envoy.
use anyhow::{Context, Result, bail};
use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

/// The packages whose programs a cluster needs, and the programs.
pub const PROGRAMS: [&str; 5] = ["global-cp", "zone-cp", "weft-dp", "weftctl", "write-load"];

#[derive(Clone, Debug)]
pub struct Programs {
    pub global_cp: PathBuf,
    pub zone_cp: PathBuf,
    pub weft_dp: PathBuf,
    pub weftctl: PathBuf,
    pub write_load: PathBuf,
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
        let paths = PROGRAMS.map(|name| dir.join(name));
        for path in &paths {
            if !path.is_file() {
                bail!("there is no {}: run cargo build --workspace --bins", path.display());
            }
        }
        let [global_cp, zone_cp, weft_dp, weftctl, write_load] = paths;
        let programs = Programs { global_cp, zone_cp, weft_dp, weftctl, write_load, envoy: envoy_path()? };
        if !programs.envoy.is_file() {
            bail!("there is no {}: run cargo xtask tools", programs.envoy.display());
        }
        Ok(programs)
    }
}

impl Programs {
    /// The control planes as they are now, under names of their own: a build in the middle of a run changes nothing in it.
    pub fn pinned(&self, dir: &Path) -> Result<Programs> {
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let pin = |program: &Path| -> Result<PathBuf> {
            let place = dir.join(program.file_name().context("a program has a name")?);
            fs::copy(program, &place).with_context(|| format!("cannot write {}", place.display()))?;
            Ok(place)
        };
        let [global_cp, zone_cp, write_load] =
            [pin(&self.global_cp)?, pin(&self.zone_cp)?, pin(&self.write_load)?];
        Ok(Programs { global_cp, zone_cp, write_load, ..self.clone() })
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
