//! Following revisions on their way to the proxies: polls, shows progress, and says how it ended.
//!
//! ```text
//! GET /_revisions/{n}?wait --> RevisionStatus --judge--> done | refused | a zone is offline | go on
//!                                          \--> bars on a terminal, lines elsewhere
//! ```
use crate::{
    client::{ANSWER_WITHIN, Client, Request},
    exit::{Code, Failure},
    out,
};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use shared_api::{RevisionStatus, ZoneStatus};
use std::{
    collections::BTreeMap,
    io::IsTerminal,
    time::{Duration, Instant},
};

/// How long the server may hold one poll.
const POLL: Duration = Duration::from_secs(5);
/// The least time between two polls, for a server that does not hold them.
const PAUSE: Duration = Duration::from_millis(50);
/// The pause after a poll that failed.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(500);
/// How long an offline zone may take to come back before it is the only thing that is waited for.
pub const OFFLINE_GRACE: Duration = Duration::from_secs(3);

/// What one look at a revision tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Every zone is done and nobody refused.
    Done,
    /// Nothing is pending, and a proxy refused.
    Refused,
    /// All that is left to do is left to zones that are offline.
    Offline,
    Pending,
}

impl Verdict {
    pub fn of(status: &RevisionStatus) -> Verdict {
        let mut open = status.zones.iter().filter(|zone| !zone.done).peekable();
        let refused = status.zones.iter().any(|zone| !zone.refused.is_empty());
        match (open.peek().is_some(), open.all(|zone| !zone.online)) {
            (true, false) => Verdict::Pending,
            (_, _) if refused => Verdict::Refused,
            (true, true) => Verdict::Offline,
            (false, _) => Verdict::Done,
        }
    }

    pub fn code(self) -> Code {
        match self {
            Verdict::Done => Code::Done,
            Verdict::Refused => Code::Refused,
            Verdict::Offline => Code::Offline,
            Verdict::Pending => Code::Timeout,
        }
    }
}

/// How the following ended: the last look at each revision.
pub struct Ending {
    pub seen: Vec<RevisionStatus>,
    /// The time that was given; `None` after a single look.
    pub limit: Option<Duration>,
}

impl Ending {
    pub fn verdict(&self) -> Verdict {
        let verdicts: Vec<Verdict> = self.seen.iter().map(Verdict::of).collect();
        let order = [Verdict::Refused, Verdict::Pending, Verdict::Offline];
        order.into_iter().find(|verdict| verdicts.contains(verdict)).unwrap_or(Verdict::Done)
    }

    /// Says how it went in each zone, and gives the exit code.
    pub fn end(&self) -> Result<(), Failure> {
        for line in self.summary() {
            out::line(line)?;
        }
        self.verdict_only()
    }

    /// Only the exit code, with its sentence.
    pub fn verdict_only(&self) -> Result<(), Failure> {
        let zones = |wanted: &dyn Fn(&ZoneStatus) -> bool| {
            let mut names: Vec<&str> = self
                .seen
                .iter()
                .flat_map(|status| &status.zones)
                .filter(|z| wanted(z))
                .map(|z| z.zone.as_str())
                .collect();
            names.sort_unstable();
            names.dedup();
            names.join(", ")
        };
        let message = match self.verdict() {
            Verdict::Done => return Ok(()),
            Verdict::Refused => {
                for refusal in
                    self.seen.iter().flat_map(|status| status.zones.iter().flat_map(|zone| &zone.refused))
                {
                    eprintln!("{}/{} refused: {}", refusal.mesh, refusal.proxy, refusal.reason);
                }
                format!("refused by proxies in {}", zones(&|zone| !zone.refused.is_empty()))
            }
            Verdict::Offline => {
                format!("offline, and not done: {}", zones(&|zone| !zone.done && !zone.online))
            }
            Verdict::Pending => {
                // A single look says by its table what is on its way.
                let Some(limit) = self.limit else {
                    return Err(Failure { code: Code::Timeout, message: None });
                };
                format!("not done within {}: {}", shared_model::Duration(limit), zones(&|zone| !zone.done))
            }
        };
        Err(Failure::new(self.verdict().code(), message))
    }

    /// One line per zone over all revisions.
    fn summary(&self) -> Vec<String> {
        let mut zones: BTreeMap<&str, Vec<&ZoneStatus>> = BTreeMap::new();
        for zone in self.seen.iter().flat_map(|status| &status.zones) {
            zones.entry(&zone.zone).or_default().push(zone);
        }
        if zones.is_empty() && !self.seen.is_empty() {
            return vec!["no enabled zone follows this control plane yet".to_owned()];
        }
        zones.into_iter().map(|(name, seen)| format!("{name}: {}", sentence(&seen))).collect()
    }
}

/// What happened in one zone.
pub fn sentence(seen: &[&ZoneStatus]) -> String {
    let sum = |of: fn(&ZoneStatus) -> u32| seen.iter().map(|zone| of(zone)).sum::<u32>();
    let (touched, acknowledged) = (sum(|zone| zone.touched), sum(|zone| zone.acknowledged));
    let refused: usize = seen.iter().map(|zone| zone.refused.len()).sum();
    let slowest = seen
        .iter()
        .filter_map(|zone| zone.apply_to_ack_ms)
        .fold(None, |most: Option<f64>, ms| Some(most.map_or(ms, |most| most.max(ms))));
    let online = seen.iter().all(|zone| zone.online);
    let done = seen.iter().all(|zone| zone.done);
    if !seen.iter().all(|zone| zone.applied) && !done {
        return if online { "not applied yet".to_owned() } else { "offline, not applied".to_owned() };
    }
    let what = if seen.len() > 1 { "acknowledgements" } else { "proxies acknowledged" };
    let mut text = match touched {
        0 => "applied, no proxy is touched".to_owned(),
        1 if seen.len() == 1 && acknowledged == 1 => "its one touched proxy acknowledged".to_owned(),
        _ => format!("{acknowledged} of {touched} {what}"),
    };
    if refused > 0 {
        text += &format!(", {refused} refused");
    }
    if !done {
        text += if online { ", waiting" } else { ", offline" };
    } else if let Some(ms) = slowest.filter(|_| touched > 0) {
        text += &format!(", {} after the apply", millis(ms));
    }
    text
}

/// A time that a person can read: `38 ms`, `1.4 s`.
pub fn millis(ms: f64) -> String {
    if ms < 1000.0 { format!("{ms:.0} ms") } else { format!("{:.1} s", ms / 1000.0) }
}

/// Follows each revision until it is done everywhere, only offline zones are left, or the time is up.
pub async fn follow(client: &Client, revisions: &[u64], limit: Duration) -> Result<Ending, Failure> {
    let begin = Instant::now();
    let mut progress = Progress::new();
    let mut seen = Vec::new();
    let mut offline_since = None;
    for &revision in revisions {
        let mut hold = Duration::ZERO;
        let mut last: Option<RevisionStatus> = None;
        let mut tag = None;
        loop {
            let left = limit.saturating_sub(begin.elapsed());
            let answer = poll(client, revision, hold.min(left), tag.as_deref()).await;
            let asked = Instant::now();
            let pause = match answer {
                Ok((status, etag)) => {
                    tag = etag;
                    progress.show(&status);
                    let verdict = Verdict::of(&status);
                    last = Some(status);
                    hold = POLL;
                    match verdict {
                        Verdict::Done | Verdict::Refused => break,
                        Verdict::Offline => {
                            let since = *offline_since.get_or_insert(asked);
                            if asked.duration_since(since) >= OFFLINE_GRACE {
                                break;
                            }
                            // A zone that comes back should be seen within the grace.
                            hold = OFFLINE_GRACE.saturating_sub(since.elapsed());
                        }
                        Verdict::Pending => offline_since = None,
                    }
                    PAUSE
                }
                Err(Poll::Final(failure)) => return Err(failure),
                // A control plane that restarts comes back: only the time decides.
                Err(Poll::Unreachable(error)) => {
                    if left.is_zero() {
                        return Err(Failure::new(Code::Timeout, error));
                    }
                    progress.say(&error);
                    PAUSE_AFTER_FAILURE
                }
            };
            if left.is_zero() {
                break;
            }
            tokio::time::sleep(pause.min(left)).await;
        }
        seen.extend(last);
    }
    progress.end();
    Ok(Ending { seen, limit: Some(limit) })
}

enum Poll {
    /// Asking again does not help.
    Final(Failure),
    Unreachable(String),
}

/// Asks how far a revision has come. The server holds the answer until it is not what was `seen`, or for `hold`.
async fn poll(
    client: &Client,
    revision: u64,
    hold: Duration,
    seen: Option<&str>,
) -> Result<(RevisionStatus, Option<String>), Poll> {
    let number = revision.to_string();
    let path = ["_revisions", &number];
    let query =
        if hold.is_zero() { Vec::new() } else { vec![("wait", format!("{}ms", hold.as_millis().max(1)))] };
    let request =
        Request { path: &path, query, seen, within: Some(hold + ANSWER_WITHIN), ..Request::default() };
    let reply = client.send(request).await.map_err(|error| Poll::Unreachable(format!("{error:#}")))?;
    if reply.status.is_server_error() {
        return Err(Poll::Unreachable(
            reply.good().err().map(|refused| refused.to_string()).unwrap_or_default(),
        ));
    }
    let reply = reply.good().map_err(|refused| Poll::Final(Failure::new(Code::Error, refused)))?;
    let status = reply.json().map_err(|error| Poll::Final(error.into()))?;
    Ok((status, reply.etag))
}

/// One look at a revision.
pub async fn look(client: &Client, revision: u64) -> Result<RevisionStatus, Failure> {
    Ok(client.read(&["_revisions", &revision.to_string()]).await?)
}

/// What a person sees while waiting: bars on a terminal, a line per change elsewhere. All of it goes to stderr.
struct Progress {
    bars: Option<(MultiProgress, BTreeMap<String, ProgressBar>)>,
    said: BTreeMap<String, String>,
}

impl Progress {
    fn new() -> Self {
        let bars = std::io::stderr().is_terminal().then(|| (MultiProgress::new(), BTreeMap::new()));
        Progress { bars, said: BTreeMap::new() }
    }

    fn show(&mut self, status: &RevisionStatus) {
        for zone in &status.zones {
            let text = sentence(&[zone]);
            let Some((multi, bars)) = &mut self.bars else {
                let text = format!("revision {}: {}: {text}", status.revision, zone.zone);
                if self.said.get(&zone.zone) != Some(&text) {
                    eprintln!("{text}");
                    self.said.insert(zone.zone.clone(), text);
                }
                continue;
            };
            let bar = bars.entry(zone.zone.clone()).or_insert_with(|| {
                let template = "{prefix:<16} {bar:24.green/dim} {msg}";
                let style =
                    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
                multi.add(
                    ProgressBar::new(1)
                        .with_style(style.progress_chars("━╸━"))
                        .with_prefix(zone.zone.clone()),
                )
            });
            let settled = u64::from(zone.acknowledged) + zone.refused.len() as u64;
            // Before it is applied the number of proxies is unknown: an empty bar; with none to wait for, a full one.
            let (length, position) = match (zone.applied, zone.touched) {
                (false, _) => (1, u64::from(zone.done)),
                (true, 0) => (1, 1),
                (true, touched) => (u64::from(touched), if zone.done { u64::from(touched) } else { settled }),
            };
            bar.set_length(length);
            bar.set_position(position);
            bar.set_message(format!("revision {}: {text}", status.revision));
        }
    }

    fn say(&mut self, text: &str) {
        match &self.bars {
            Some((multi, _)) => {
                let _ = multi.println(text);
            }
            None if self.said.get("") == Some(&text.to_owned()) => {}
            None => {
                eprintln!("{text}");
                self.said.insert(String::new(), text.to_owned());
            }
        }
    }

    /// The bars go; the summary says what they said.
    fn end(self) {
        if let Some((multi, bars)) = self.bars {
            bars.values().for_each(ProgressBar::finish_and_clear);
            let _ = multi.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared_api::ProxyRefusal;

    fn zone(name: &str, online: bool, acknowledged: u32, pending: u32) -> ZoneStatus {
        ZoneStatus {
            zone: name.into(),
            online,
            applied: true,
            touched: acknowledged + pending,
            acknowledged,
            pending,
            done: pending == 0,
            ..ZoneStatus::default()
        }
    }

    fn refused(mut zone: ZoneStatus) -> ZoneStatus {
        zone.touched += 1;
        zone.refused.push(ProxyRefusal { mesh: "m".into(), proxy: "p".into(), reason: "bad".into() });
        zone
    }

    fn behind(name: &str, online: bool) -> ZoneStatus {
        ZoneStatus { zone: name.into(), online, ..ZoneStatus::default() }
    }

    fn status(zones: Vec<ZoneStatus>) -> RevisionStatus {
        let done = zones.iter().all(|zone| zone.done);
        RevisionStatus { revision: 1, current: 1, applied_at: None, done, zones }
    }

    #[test]
    fn a_verdict_waits_for_what_can_still_happen() {
        let done = || zone("a", true, 2, 0);
        let cases = [
            (vec![], Verdict::Done),
            (vec![done(), done()], Verdict::Done),
            (vec![done(), zone("b", true, 1, 1)], Verdict::Pending),
            (vec![done(), behind("b", true)], Verdict::Pending),
            (vec![done(), behind("b", false)], Verdict::Offline),
            (vec![behind("a", true), behind("b", false)], Verdict::Pending),
            (vec![done(), refused(zone("b", true, 1, 0))], Verdict::Refused),
            (vec![refused(done()), zone("b", true, 1, 1)], Verdict::Pending),
            (vec![refused(done()), behind("b", false)], Verdict::Refused),
        ];
        for (zones, expected) in cases {
            assert_eq!(Verdict::of(&status(zones.clone())), expected, "{zones:?}");
        }
    }

    #[test]
    fn the_worst_of_several_revisions_counts() {
        let ending = |seen: Vec<RevisionStatus>| Ending { seen, limit: Some(Duration::from_secs(30)) };
        let done = || status(vec![zone("a", true, 2, 0)]);
        assert_eq!(ending(vec![done(), done()]).verdict(), Verdict::Done);
        let offline = || status(vec![behind("a", false)]);
        assert_eq!(ending(vec![offline(), done()]).verdict(), Verdict::Offline);
        let with_refusal = status(vec![refused(zone("a", true, 1, 0))]);
        let ending = ending(vec![done(), offline(), with_refusal]);
        assert_eq!(ending.verdict_only().map_err(|failure| failure.code), Err(Code::Refused));
    }

    #[test]
    fn a_zone_is_told_in_one_sentence() {
        let mut good = zone("a", true, 4, 0);
        good.apply_to_ack_ms = Some(38.4);
        assert_eq!(sentence(&[&good]), "4 of 4 proxies acknowledged, 38 ms after the apply");
        assert_eq!(sentence(&[&good, &good]), "8 of 8 acknowledgements, 38 ms after the apply");
        assert_eq!(sentence(&[&zone("a", true, 0, 0)]), "applied, no proxy is touched");
        assert_eq!(sentence(&[&zone("a", true, 1, 2)]), "1 of 3 proxies acknowledged, waiting");
        assert_eq!(sentence(&[&behind("a", false)]), "offline, not applied");
        assert_eq!(sentence(&[&refused(zone("a", true, 3, 0))]), "3 of 4 proxies acknowledged, 1 refused");
        assert_eq!(millis(1432.0), "1.4 s");
    }
}
