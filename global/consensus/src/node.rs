//! What the node knows of the cluster at a moment.
use openraft::RaftMetrics;
use shared_raft::{LEARNER_BIT, Member};
use std::collections::{BTreeMap, BTreeSet};

/// The members as this node knows them, and who leads.
#[derive(Clone, Debug, Default)]
pub(crate) struct View {
    pub leader: Option<u64>,
    /// One set of voters; two while they change.
    pub configs: Vec<Vec<u64>>,
    /// Voters, learners of global, and zones.
    pub nodes: BTreeMap<u64, Member>,
}

impl View {
    pub fn of(metrics: &RaftMetrics<u64, Member>) -> View {
        let membership = metrics.membership_config.membership();
        View {
            leader: metrics.current_leader,
            configs: membership.get_joint_config().iter().map(|set| set.iter().copied().collect()).collect(),
            nodes: membership.nodes().map(|(id, member)| (*id, member.clone())).collect(),
        }
    }

    pub fn voters(&self) -> impl Iterator<Item = u64> + '_ {
        self.configs.iter().flatten().copied().collect::<BTreeSet<u64>>().into_iter()
    }

    /// The voters beside one.
    pub fn others(&self, node_id: u64) -> Vec<(u64, Member)> {
        let others = self.voters().filter(|id| *id != node_id);
        others.filter_map(|id| Some((id, self.nodes.get(&id)?.clone()))).collect()
    }

    /// The nodes of global, voters or not.
    pub fn globals(&self) -> impl Iterator<Item = (u64, &Member)> {
        self.nodes.iter().filter(|(id, _)| *id & LEARNER_BIT == 0).map(|(id, member)| (*id, member))
    }

    /// Whether this node is the only voter. One that knows of no voter is about to join others.
    pub fn is_alone(&self, node_id: u64) -> bool {
        self.voters().eq([node_id])
    }
}

pub(crate) fn random() -> u64 {
    uuid::Uuid::new_v4().as_u64_pair().1
}
