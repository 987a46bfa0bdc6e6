//! The lives of a catalog. A catalog that was restored from a backup begins a new one: what the old one wrote after the
//! backup was taken is not part of it, and whoever has seen that must not take the new life for a later state of the old.
//!
//! ```text
//! epoch 1          1 ... 812 ... 905                the backup was taken at 812; a zone has seen 905
//! epoch 2-8f3a91c2         812, first 1795499486000 ...
//! ```
//!
//! The first revision of an epoch is above all that the epoch before can have given out: no revision has two meanings.
use serde::{Deserialize, Serialize};
use shared_model::Revision;
use std::{fmt, str::FromStr};

/// How many epochs are remembered. Who has seen an older one is asked about.
pub(crate) const EPOCHS_KEPT: usize = 64;

/// One life. The mark tells apart two restores of one backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Epoch {
    pub number: u32,
    pub mark: u32,
}

impl Epoch {
    /// That of a catalog which was never restored.
    pub const FIRST: Epoch = Epoch { number: 1, mark: 0 };
}

impl Default for Epoch {
    fn default() -> Epoch {
        Epoch::FIRST
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Epoch::FIRST => f.write_str("1"),
            Epoch { number, mark } => write!(f, "{number}-{mark:08x}"),
        }
    }
}

impl FromStr for Epoch {
    type Err = String;

    fn from_str(text: &str) -> Result<Epoch, String> {
        let bad = || format!("{text:?} is not an epoch");
        let (number, mark) = text.split_once('-').unwrap_or((text, "0"));
        let mark = u32::from_str_radix(mark, 16).map_err(|_| bad())?;
        let epoch = Epoch { number: number.parse().map_err(|_| bad())?, mark };
        if epoch.to_string() == text { Ok(epoch) } else { Err(bad()) }
    }
}

/// How an epoch came after another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Beginning {
    pub epoch: Epoch,
    /// The last revision of the epoch before that belongs to this one too.
    pub after: Revision,
    pub first: Revision,
}

/// Why a follower cannot go on by itself: it has seen what this catalog has not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Divergence {
    #[error(
        "it has seen revision {seen} of epoch {epoch}, but global was restored from revision {after} and is in epoch {now}"
    )]
    Later { seen: Revision, epoch: Epoch, after: Revision, now: Epoch },
    #[error(
        "it has seen revision {seen} of epoch {epoch}, which is none of global's past; global is in epoch {now}"
    )]
    Elsewhere { seen: Revision, epoch: Epoch, now: Epoch },
}

/// The last revision of `epoch` that the present one holds too; `None` when it is none of its ancestors. Everything for
/// the present one.
pub(crate) fn shared_until(lineage: &[Beginning], epoch: Epoch) -> Option<Revision> {
    let now = lineage.last().map_or(Epoch::FIRST, |beginning| beginning.epoch);
    if epoch == now {
        return Some(Revision(u64::MAX));
    }
    let place = lineage.iter().position(|beginning| beginning.epoch == epoch);
    let next = match place {
        Some(place) => lineage.get(place + 1),
        None if epoch == Epoch::FIRST && lineage.len() < EPOCHS_KEPT => lineage.first(),
        None => None,
    };
    next.map(|next| next.after)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_reads_back_and_nothing_else_does() {
        for epoch in [Epoch::FIRST, Epoch { number: 2, mark: 0x0f3a_91c2 }, Epoch { number: 9, mark: 0 }] {
            assert_eq!(epoch.to_string().parse(), Ok(epoch));
        }
        assert_eq!(Epoch { number: 2, mark: 0xf3a }.to_string(), "2-00000f3a");
        for bad in ["", "x", "1-", "2-f3a", "1-00000000", "2-0F3A91C2", "+1"] {
            assert!(bad.parse::<Epoch>().is_err(), "{bad}");
        }
    }
}
