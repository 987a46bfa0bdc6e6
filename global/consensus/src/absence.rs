//! Zones that stay away. A learner that nobody hears of costs the leader a try each quarter of a second, for ever, and a
//! wiped disk comes back under another id. So the leader lets go of a replica that has been without a stream for long
//! enough. When it comes back it is new: what it lacks comes as entries, or as a snapshot when the log is shorter.
use crate::{links::Registry, membership::Membership};
use proto::peer::{ZoneReplica, change};
use std::{sync::Arc, time::Duration};
use tokio::time::MissedTickBehavior;

/// How often the leader looks: a part of the time that a zone may be away.
const PART: u32 = 4;
const OFTEN: Duration = Duration::from_millis(100);
const SELDOM: Duration = Duration::from_secs(30);

/// Runs as long as the node does. Clocks start anew at a new leader: a replica stays a little longer then.
pub(crate) async fn watch(membership: Membership, registry: Arc<Registry>, absence: Duration) {
    let mut rounds = tokio::time::interval((absence / PART).clamp(OFTEN, SELDOM));
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        rounds.tick().await;
        // Every node keeps its clocks, so that the one that leads next has them.
        registry.away(&membership.learners());
        if !membership.leads() {
            continue;
        }
        if let Err(error) = round(&membership, &registry, absence).await {
            tracing::debug!(%error, "the replicas of zones are looked at again later");
        }
    }
}

async fn round(membership: &Membership, registry: &Registry, absence: Duration) -> Result<(), crate::Error> {
    // One whose stream came just when it was let go.
    let known = membership.learners();
    for (node_id, zone) in registry.open().into_iter().filter(|(id, _)| !known.contains(id)) {
        membership.make(change::Kind::AddZone(ZoneReplica { node_id, zone })).await?;
    }
    membership.forget_absent(absence).await
}
