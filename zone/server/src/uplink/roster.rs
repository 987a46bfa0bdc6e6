//! Where the nodes of global are, and to which of them a link is open. Pure.
use proto::link::Members;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Roster {
    members: Listed,
    /// The open links: by node, the address through which it is reached.
    open: BTreeMap<u64, String>,
}

/// The members as global has told them last.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Listed {
    index: u64,
    /// By node, where zones dial it.
    links: BTreeMap<u64, String>,
}

impl Roster {
    /// From what was kept; what cannot be read is as good as nothing, the seeds lead further.
    pub fn read(text: &str) -> Roster {
        Roster { members: serde_json::from_str(text).unwrap_or_default(), open: BTreeMap::new() }
    }

    pub fn members_json(&self) -> String {
        serde_json::to_string(&self.members).expect("numbers and strings are JSON")
    }

    /// Where the members are, for people.
    pub fn addresses(&self) -> String {
        let addresses: Vec<&str> = self.members.links.values().map(String::as_str).collect();
        addresses.join(", ")
    }

    /// Takes a list, unless it is older than the one that is known. Answers whether it says something new.
    pub fn take(&mut self, members: Members) -> bool {
        if members.index < self.members.index || members.members.is_empty() {
            return false;
        }
        let links = members.members.into_iter().map(|member| (member.node_id, member.link)).collect();
        let listed = Listed { index: members.index, links };
        let is_new = listed.links != self.members.links;
        self.members = listed;
        is_new
    }

    /// The addresses that should be dialled or are: every member, through one address each. The seeds, when no link is
    /// open and no member is known, or none was reached for a while (`alone`): they may be other names of the same nodes.
    pub fn wanted(&self, seeds: &[String], alone: bool) -> Vec<String> {
        let mut wanted: Vec<String> = self.open.values().cloned().collect();
        let members = self.members.links.iter().filter(|(node_id, _)| !self.open.contains_key(node_id));
        wanted.extend(members.map(|(_, url)| url.clone()));
        if self.open.is_empty() && (alone || self.members.links.is_empty()) {
            wanted.extend(seeds.iter().cloned());
        }
        wanted.sort();
        wanted.dedup();
        wanted
    }

    pub fn opened(&mut self, node_id: u64, url: &str) {
        self.open.insert(node_id, url.to_owned());
    }

    /// A link has ended. One through another address may have taken its place already.
    pub fn ended(&mut self, node_id: u64, url: &str) {
        if self.open.get(&node_id).is_some_and(|open| open == url) {
            self.open.remove(&node_id);
        }
    }

    /// The addresses to which a link is open.
    pub fn linked(&self) -> Vec<String> {
        self.open.values().cloned().collect()
    }

    /// The node whose link carries what is sent only once.
    pub fn first(&self) -> Option<u64> {
        self.open.keys().next().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::link::Member;

    fn members(index: u64, nodes: &[(u64, &str)]) -> Members {
        let member = |(node_id, link): &(u64, &str)| Member { node_id: *node_id, link: (*link).to_owned() };
        Members { index, members: nodes.iter().map(member).collect() }
    }

    #[test]
    fn seeds_lead_to_the_members_and_are_left_alone_then() {
        let seeds = ["seed".to_owned()];
        let mut roster = Roster::default();
        assert_eq!(roster.wanted(&seeds, false), ["seed"]);
        roster.opened(1, "seed");
        assert!(roster.take(members(5, &[(1, "a"), (2, "b")])));
        // Node 1 is reached already, by another name.
        assert_eq!(roster.wanted(&seeds, true), ["b", "seed"]);
        roster.opened(2, "b");
        roster.ended(1, "seed");
        assert_eq!(roster.wanted(&seeds, true), ["a", "b"]);
        assert_eq!(roster.first(), Some(2));
        roster.ended(2, "other");
        assert_eq!(roster.first(), Some(2));
    }

    #[test]
    fn an_older_list_changes_nothing_and_a_list_is_kept() {
        let mut roster = Roster::default();
        assert!(roster.take(members(5, &[(1, "a")])));
        assert!(!roster.take(members(4, &[(9, "z")])));
        assert!(!roster.take(members(6, &[(1, "a")])));
        assert!(!roster.take(members(7, &[])));
        let read = Roster::read(&roster.members_json());
        assert_eq!(read, roster);
        assert_eq!(Roster::read("rubbish"), Roster::default());
        assert_eq!(read.wanted(&["seed".to_owned()], false), ["a"]);
        assert_eq!(read.wanted(&["seed".to_owned()], true), ["a", "seed"]);
    }
}
