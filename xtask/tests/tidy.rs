//! The directions of the house, read from `cargo metadata` and from the sources: which room may use which, and that the
//! rooms of judgement stay pure.
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// The pure rooms: no async, no IO, no clock, no randomness.
const PURE: [&str; 6] =
    ["shared-model", "shared-policy", "shared-identity", "shared-catalog", "zone-index", "zone-xds"];

/// What no pure room may use.
const IMPURE: [&str; 14] = [
    "tokio",
    "tokio-stream",
    "tokio-util",
    "tonic",
    "actix",
    "actix-rt",
    "openraft",
    "rand",
    "sled",
    "axum",
    "reqwest",
    "hyper",
    "futures",
    "tempfile",
];

/// Which of the workspace's packages each may use, tests not counted. A package that is not here uses none.
const DIRECTIONS: [(&str, &[&str]); 20] = [
    ("proto", &[]),
    ("shared-model", &[]),
    ("shared-policy", &["shared-model"]),
    ("shared-identity", &["shared-model"]),
    ("shared-catalog", &["shared-model"]),
    ("shared-raft", &["shared-catalog"]),
    ("shared-node", &["shared-identity", "shared-model"]),
    ("shared-api", &["shared-catalog", "shared-identity", "shared-model", "shared-node", "shared-policy"]),
    ("global-consensus", &["proto", "shared-catalog", "shared-raft"]),
    (
        "global-server",
        &[
            "global-consensus",
            "proto",
            "shared-api",
            "shared-catalog",
            "shared-identity",
            "shared-model",
            "shared-node",
            "shared-policy",
            "shared-raft",
        ],
    ),
    ("global-load", &["proto", "shared-identity", "shared-node", "shared-raft"]),
    ("global-cli", &["shared-api", "shared-model", "shared-policy"]),
    ("zone-index", &["shared-model", "shared-policy"]),
    ("zone-xds", &["shared-model", "shared-policy", "zone-index"]),
    ("zone-store", &["shared-catalog", "shared-identity", "shared-model"]),
    (
        "zone-server",
        &[
            "proto",
            "shared-api",
            "shared-catalog",
            "shared-identity",
            "shared-model",
            "shared-node",
            "shared-policy",
            "shared-raft",
            "zone-index",
            "zone-store",
            "zone-xds",
        ],
    ),
    ("zone-agent", &["shared-model", "shared-node"]),
    ("zone-proxy-sim", &["shared-model", "shared-node"]),
    ("chaos-tests-process", &[]),
    ("xtask", &["chaos-tests-process"]),
];

/// Words that a pure room's code never says: they read a clock, a disk, a network or dice.
const IMPURE_WORDS: [&str; 10] = [
    "async fn",
    ".await",
    "std::fs",
    "std::net::Tcp",
    "std::process",
    "std::thread",
    "SystemTime::now",
    "Instant::now",
    "Utc::now",
    "rand::",
];

#[derive(Debug)]
struct Package {
    /// Dependencies of the code itself, not of its tests or its build script.
    uses: BTreeSet<String>,
    dir: PathBuf,
}

fn workspace() -> BTreeMap<String, Package> {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml");
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--manifest-path"])
        .arg(&manifest)
        .output()
        .expect("cargo metadata runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON");
    let text = |value: &Value| value.as_str().expect("a string").to_owned();
    let packages = metadata["packages"].as_array().expect("packages");
    packages
        .iter()
        .map(|package| {
            let dependencies = package["dependencies"].as_array().expect("dependencies");
            let normal = dependencies.iter().filter(|dependency| dependency["kind"].is_null());
            let uses = normal.map(|dependency| text(&dependency["name"])).collect();
            let manifest = PathBuf::from(text(&package["manifest_path"]));
            let dir = manifest.parent().expect("a manifest lies in a directory").to_owned();
            (text(&package["name"]), Package { uses, dir })
        })
        .collect()
}

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn pure_rooms_use_nothing_impure() {
    let packages = workspace();
    for name in PURE {
        let uses = &packages[name].uses;
        let impure: Vec<&str> = IMPURE.into_iter().filter(|impure| uses.contains(*impure)).collect();
        assert!(impure.is_empty(), "{name} is pure and uses {impure:?}");
    }
}

#[test]
fn pure_rooms_use_only_pure_rooms() {
    let packages = workspace();
    for name in PURE {
        for used in packages[name].uses.iter().filter(|used| packages.contains_key(*used)) {
            assert!(PURE.contains(&used.as_str()), "{name} is pure and uses {used}, which is not");
        }
    }
}

#[test]
fn pure_rooms_read_no_clock_and_no_disk() {
    let packages = workspace();
    for name in PURE {
        let mut files = Vec::new();
        sources(&packages[name].dir.join("src"), &mut files);
        assert!(!files.is_empty(), "{name} has no sources");
        for file in files.iter().filter(|file| !file.ends_with("tests.rs")) {
            let text = fs::read_to_string(file).expect("a source can be read");
            // Tests stand last in a file; they may read golden files.
            let code = text.split("#[cfg(test)]").next().unwrap_or_default();
            for (number, line) in
                code.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//"))
            {
                let said = IMPURE_WORDS.iter().find(|word| line.contains(**word));
                assert!(said.is_none(), "{}:{}: a pure room says {said:?}", file.display(), number + 1);
            }
        }
    }
}

#[test]
fn every_room_uses_only_what_its_direction_allows() {
    let packages = workspace();
    let directions: BTreeMap<&str, &[&str]> = DIRECTIONS.into_iter().collect();
    for (name, package) in &packages {
        let allowed = directions
            .get(name.as_str())
            .unwrap_or_else(|| panic!("{name} has no direction: add it to this test"));
        for used in package.uses.iter().filter(|used| packages.contains_key(*used)) {
            assert!(
                allowed.contains(&used.as_str()),
                "{name} uses {used}, which its direction does not allow"
            );
        }
    }
}

#[test]
fn global_and_zone_never_meet() {
    let packages = workspace();
    for (name, package) in &packages {
        for used in &package.uses {
            let meet = (name.starts_with("global-") && used.starts_with("zone-"))
                || (name.starts_with("zone-") && used.starts_with("global-"));
            assert!(!meet, "{name} uses {used}");
        }
    }
}
