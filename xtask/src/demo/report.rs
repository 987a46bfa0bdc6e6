//! What the demo says: on the terminal, and as JSON.
use anyhow::{Context, Result};
use chaos_tests_process::Cluster;
use serde::Serialize;
use std::{collections::BTreeMap, fs, path::Path};

/// One step as the JSON file has it.
#[derive(Clone, Debug, Serialize)]
pub struct Step {
    pub name: &'static str,
    pub pass: bool,
    /// The revision that the step made, or that was in force when it made none.
    pub revision: Option<u64>,
    /// From the command to the last proxy's acknowledgement of that revision, per zone.
    pub apply_to_ack_ms: BTreeMap<String, Option<f64>>,
    pub seen: String,
}

#[derive(Serialize)]
struct Report<'a> {
    steps: &'a [Step],
}

pub fn write_json(file: &Path, steps: &[Step]) -> Result<()> {
    let text = serde_json::to_string_pretty(&Report { steps })?;
    fs::write(file, text + "\n").with_context(|| format!("cannot write {}", file.display()))
}

pub fn print_step(number: usize, step: &Step, lines: &[String]) {
    let verdict = if step.pass { "PASS" } else { "FAIL" };
    let revision = step.revision.map_or("no revision".to_owned(), |revision| format!("revision {revision}"));
    let acks: Vec<String> = step
        .apply_to_ack_ms
        .iter()
        .map(|(zone, ms)| match ms {
            Some(ms) => format!("{zone} {ms:.1} ms"),
            None => format!("{zone} not known"),
        })
        .collect();
    println!(
        "\n{number:>2}. {} ... {verdict}  ({revision}; apply to last ACK: {})",
        step.name,
        acks.join(", ")
    );
    for line in lines {
        println!("    {line}");
    }
}

pub fn print_summary(steps: &[Step]) {
    let passed = steps.iter().filter(|step| step.pass).count();
    println!("\n{passed} of {} steps passed", steps.len());
}

/// What a person can try while everything runs.
pub fn print_addresses(cluster: &Cluster) -> Result<()> {
    let server = cluster.server();
    println!("\neverything still runs; try it by hand (weftctl lies in target/debug):");
    println!("  export WEFT_SERVER={server}");
    println!("  weftctl get meshes ; weftctl get dataplanes ; weftctl status latest");
    println!("  weftctl delete meshhttproute canary --wait");
    for (name, zone) in &cluster.zones {
        let control_plane = &zone.control_plane;
        println!(
            "  {name}: API http://{}, metrics http://{}/metrics",
            control_plane.api, control_plane.diagnostics
        );
        for proxy in zone.proxies.values() {
            match proxy.outbound {
                Some(outbound) => {
                    println!("    {} calls backend at: curl http://{outbound}/", proxy.spec.name)
                }
                None => println!("    {} serves at {} (mutual TLS only)", proxy.spec.name, proxy.inbound),
            }
        }
    }
    println!("data, documents and logs: {}", cluster.dir.display());
    println!("Ctrl-C ends all of it");
    Ok(())
}
