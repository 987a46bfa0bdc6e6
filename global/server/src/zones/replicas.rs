//! The replicas of one zone, and what they say together. Each runs for itself: its own link, its own report of a
//! revision. Of a zone with several, the ones that are connected speak; a zone that is away
//! is shown as all of them left it.
use super::{handle::ZoneHandle, inventory::ReplicaId, progress::Progress};
use proto::link::Hello;
use shared_api::ZoneStatus;
use shared_model::Revision;
use std::collections::BTreeMap;

/// Replicas of a zone that are remembered when they have gone. A disk that is wiped comes back as another one.
const KEPT: usize = 8;

#[derive(Default)]
pub struct Replicas {
    /// By the id of their disk.
    all: BTreeMap<u64, Replica>,
}

#[derive(Default)]
pub struct Replica {
    pub link: Option<Link>,
    /// Of the process that was connected last.
    instance: String,
    pub progress: Progress,
    /// The newest link that it has had: whoever has been away for longest is forgotten first.
    newest: u64,
}

pub struct Link {
    pub id: u64,
    /// Known a moment after the link.
    pub handle: Option<ZoneHandle>,
}

impl Link {
    pub fn stop(&self, reason: &str) {
        if let Some(handle) = &self.handle {
            handle.stop(reason);
        }
    }
}

impl Replicas {
    pub fn connected(&mut self, hello: &Hello, link: u64) {
        let replica = self.all.entry(hello.node_id).or_default();
        let restarted = replica.instance != hello.instance;
        replica.instance.clone_from(&hello.instance);
        replica.link = Some(Link { id: link, handle: None });
        replica.newest = link;
        replica.progress.linked(Revision(hello.revision), restarted);
        while self.all.len() > KEPT {
            let gone = self.all.iter().filter(|(_, replica)| replica.link.is_none());
            let Some(oldest) = gone.min_by_key(|(_, replica)| replica.newest).map(|(id, _)| *id) else {
                break;
            };
            self.all.remove(&oldest);
        }
    }

    /// A link has ended. One that was replaced meanwhile ends nothing.
    pub fn disconnected(&mut self, node_id: u64, link: u64) {
        let replica = self.all.get_mut(&node_id);
        if let Some(replica) =
            replica.filter(|replica| replica.link.as_ref().is_some_and(|open| open.id == link))
        {
            replica.link = None;
        }
    }

    pub fn get(&mut self, node_id: u64) -> Option<&mut Replica> {
        self.all.get_mut(&node_id)
    }

    pub fn link(&self, node_id: u64) -> Option<&Link> {
        self.all.get(&node_id)?.link.as_ref()
    }

    pub fn links(&self) -> impl Iterator<Item = &Link> {
        self.all.values().filter_map(|replica| replica.link.as_ref())
    }

    pub fn is_online(&self) -> bool {
        self.links().next().is_some()
    }

    /// What the zone says of a revision: it is done when it is done at every replica that is there.
    pub fn progress(&self, zone: &str, revision: Revision) -> ZoneStatus {
        let online = self.is_online();
        let speaking = self.all.values().filter(|replica| !online || replica.link.is_some());
        let said = speaking.map(|replica| replica.progress.of(zone, online, revision));
        said.reduce(together).unwrap_or_else(|| ZoneStatus { zone: zone.to_owned(), ..ZoneStatus::default() })
    }

    /// Who can answer questions about a proxy: the replica that tells of it, else any that is there.
    pub fn keeper(&self, replica: Option<ReplicaId>) -> Option<ZoneHandle> {
        let keeper = replica.and_then(|replica| self.link(replica));
        keeper.or_else(|| self.links().next())?.handle.clone()
    }
}

fn together(mut status: ZoneStatus, other: ZoneStatus) -> ZoneStatus {
    status.applied &= other.applied;
    status.done &= other.done;
    status.applied_at = status.applied_at.max(other.applied_at);
    status.touched += other.touched;
    status.acknowledged += other.acknowledged;
    status.pending += other.pending;
    status.refused.extend(other.refused);
    let took = [status.apply_to_ack_ms, other.apply_to_ack_ms];
    status.apply_to_ack_ms = took.into_iter().flatten().reduce(f64::max);
    status
}

#[cfg(test)]
mod tests {
    use super::super::progress::Commits;
    use super::*;
    use proto::link::RevisionProgress;
    use std::time::Instant;

    fn connect(replicas: &mut Replicas, node_id: u64, link: u64) {
        let hello = Hello { node_id, instance: format!("cp-{node_id}"), ..Hello::default() };
        replicas.connected(&hello, link);
    }

    #[test]
    fn what_replicas_say_of_a_revision_is_added_up() {
        let mut replicas = Replicas::default();
        let mut commits = Commits::default();
        let now = Instant::now();
        commits.committed(Revision(7), now);
        let report = |touched, pending| RevisionProgress {
            revision: 7,
            touched,
            pending,
            acknowledged: touched - pending,
            ..RevisionProgress::default()
        };
        for (node_id, pending) in [(1, 0), (2, 1)] {
            connect(&mut replicas, node_id, node_id);
            replicas.get(node_id).expect("there").progress.reported(report(3, pending), &commits, now);
        }
        let status = replicas.progress("east", Revision(7));
        assert_eq!((status.touched, status.acknowledged, status.pending), (6, 5, 1));
        assert!(status.online && status.applied && !status.done);
        // Who has gone holds nobody up, as long as somebody is there.
        replicas.disconnected(2, 2);
        let status = replicas.progress("east", Revision(7));
        assert!(status.done && status.touched == 3, "{status:?}");
        replicas.disconnected(1, 1);
        assert!(!replicas.progress("east", Revision(7)).online);
    }

    #[test]
    fn disks_that_come_and_go_are_forgotten() {
        let mut replicas = Replicas::default();
        for node_id in 1..100 {
            connect(&mut replicas, node_id, node_id);
            replicas.disconnected(node_id, node_id);
        }
        assert_eq!(replicas.all.len(), KEPT);
        assert!(replicas.all.contains_key(&99));
    }
}
