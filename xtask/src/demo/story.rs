//! The state of the demo between its steps, and what a step has to say.
use super::report::{Step, print_step};
use anyhow::{Result, bail};
use chaos_tests_process::{Cluster, RevisionStatus, Settings, Tally, proxy::Admin, series, tally, until};
use std::{collections::BTreeMap, net::SocketAddr};

/// Requests of one measurement; at least 1,000 are asked for.
const SAMPLE: u64 = 2_000;
/// Requests of the second measurement, see [`Story::share`].
const SECOND_SAMPLE: u64 = 6_000;

pub struct Story {
    pub cluster: Cluster,
    pub zones: Vec<String>,
    pub steps: Vec<Step>,
    /// The newest revision that was applied, with its times: steps that make none report it.
    pub in_force: (Option<u64>, BTreeMap<String, Option<f64>>),
}

/// What a step saw. It passes when everything that it checked holds.
#[derive(Default)]
pub struct Witness {
    pub revision: Option<u64>,
    pub apply_to_ack_ms: BTreeMap<String, Option<f64>>,
    lines: Vec<String>,
    failed: bool,
}

impl Witness {
    /// A fact for the reader.
    pub fn saw(&mut self, line: impl Into<String>) {
        self.lines.push(line.into());
    }

    /// A fact that decides.
    pub fn check(&mut self, holds: bool, line: impl Into<String>) {
        let line = line.into();
        self.lines.push(if holds { line } else { format!("WRONG: {line}") });
        self.failed |= !holds;
    }

    fn made(&mut self, status: &RevisionStatus) {
        self.revision = Some(status.revision);
        self.apply_to_ack_ms = status.apply_to_ack_ms();
    }
}

impl Story {
    /// Starts the control planes, then the services, in a mesh that has no identities yet.
    pub async fn begin(settings: Settings) -> Result<Story> {
        let zones = settings.zones.clone();
        println!("starting global-cp and {} zones", zones.len());
        let mut cluster = Cluster::start(settings).await?;
        println!("starting web, backend v1 and backend v2 with an Envoy each in every zone");
        cluster.join_services().await?;
        for zone in &zones {
            cluster.make_token(&format!("{zone}-web-new")).await?;
        }
        Ok(Story { cluster, zones, steps: Vec::new(), in_force: Default::default() })
    }

    /// Notes and prints the outcome of a step.
    pub fn tell(&mut self, name: &'static str, witness: Witness, result: Result<()>) {
        let mut witness = witness;
        if let Err(error) = result {
            witness.check(false, format!("{error:#}"));
        }
        if witness.revision.is_none() {
            (witness.revision, witness.apply_to_ack_ms) = self.in_force.clone();
        }
        let (revision, apply_to_ack_ms) = (witness.revision, witness.apply_to_ack_ms);
        let seen = witness.lines.join("; ");
        let step = Step { name, pass: !witness.failed, revision, apply_to_ack_ms, seen };
        print_step(self.steps.len() + 1, &step, &witness.lines);
        self.steps.push(step);
    }

    /// Applies a document at global, with `weftctl apply --wait`; no connection runs by older rules when it returns.
    pub async fn apply(&mut self, witness: &mut Witness, document: &str) -> Result<()> {
        let revision = self.cluster.apply(document).await?;
        self.in_effect(witness, revision).await
    }

    pub async fn delete(&mut self, witness: &mut Witness, kind: &str, name: &str) -> Result<()> {
        let revision = self.cluster.delete(kind, name).await?;
        self.in_effect(witness, revision).await
    }

    async fn in_effect(&mut self, witness: &mut Witness, revision: u64) -> Result<()> {
        let status = self.cluster.until_done(revision).await?;
        let refusals = status.refusals();
        if !refusals.is_empty() {
            bail!("revision {revision} was refused: {}", refusals.join("; "));
        }
        witness.made(&status);
        self.in_force = (Some(revision), status.apply_to_ack_ms());
        self.until_drained().await
    }

    /// Envoy keeps serving open connections by a listener's old configuration until it has drained them. A measurement
    /// starts when no such listener is left.
    pub async fn until_drained(&self) -> Result<()> {
        for zone in self.cluster.zones.values() {
            for proxy in zone.proxies.values() {
                let what = format!("{} to have drained its old listeners", proxy.spec.name);
                until(&what, || async {
                    let draining = proxy.admin.sum(is_draining).await?;
                    if draining > 0 {
                        bail!("{draining} are draining");
                    }
                    Ok(())
                })
                .await?;
            }
        }
        Ok(())
    }

    /// The address at which `web` of a zone reaches `backend`.
    pub fn road(&self, zone: &str) -> Result<SocketAddr> {
        self.cluster.road(zone, "web")
    }

    pub fn admin(&self, zone: &str, proxy: &str) -> Result<&Admin> {
        Ok(&self.cluster.proxy(zone, proxy)?.admin)
    }

    /// The sum of the counters of the proxies that serve `backend` in a zone.
    pub async fn backends_sum(&self, zone: &str, wanted: fn(&str) -> bool) -> Result<u64> {
        let mut sum = 0;
        for proxy in ["backend", "backend-v2"] {
            sum += self.admin(zone, proxy)?.sum(wanted).await?;
        }
        Ok(sum)
    }

    /// Measures a share of the requests on a zone's road against the probability `p`: within three standard deviations.
    /// One correct measurement in 370 lies outside, and a demo makes many. So such a one is repeated once, on its own and
    /// with more requests, which a wrong share survives even less often; both are told.
    pub async fn share(
        &self,
        witness: &mut Witness,
        zone: &str,
        what: &str,
        p: f64,
        hits: fn(&Tally) -> u64,
    ) -> Result<Tally> {
        let road = self.road(zone)?;
        let mut all = Tally::default();
        for (try_no, count) in [SAMPLE, SECOND_SAMPLE].into_iter().enumerate() {
            let tally = series(road, "/", count).await;
            let (seen, of) = (hits(&tally), tally.total);
            let percent = 100.0 * seen as f64 / of as f64;
            let line =
                format!("{zone}: {what}: {seen} of {of} ({percent:.1} %, expected {:.0} %)", 100.0 * p);
            all.add(tally);
            let holds = of == count && tally::is_within_three_deviations(seen, of, p);
            let is_last = try_no == 1 || p == 0.0;
            if holds || is_last {
                witness.check(holds, line);
                break;
            }
            witness.saw(format!("{line}: outside three deviations, measured once more"));
        }
        Ok(all)
    }
}

fn is_draining(name: &str) -> bool {
    matches!(
        name,
        "listener_manager.total_listeners_draining" | "listener_manager.total_filter_chains_draining"
    )
}
