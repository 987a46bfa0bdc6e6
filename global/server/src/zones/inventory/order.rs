//! Slots in the order of what they hold, in blocks: an entry comes, goes, and is found by its place without a walk.
//! What is compared is the caller's: `place(slot)` says where the slot's entry stands against the one that is looked for.
use super::terms::Slot;
use std::cmp::Ordering;

/// Slots in a block; it is halved at twice as many. Moving so many is as quick as finding the block.
const BLOCK: usize = 512;

#[derive(Debug, Default)]
pub struct Order {
    blocks: Vec<Vec<Slot>>,
    len: usize,
}

impl Order {
    pub fn len(&self) -> usize {
        self.len
    }

    /// How many stand before the one that is looked for.
    pub fn rank(&self, place: impl Fn(Slot) -> Ordering) -> usize {
        let (block, index) = self.find(place);
        self.blocks[..block].iter().map(Vec::len).sum::<usize>() + index
    }

    /// The slots from a rank on.
    pub fn from(&self, rank: usize) -> impl Iterator<Item = Slot> {
        let (mut block, mut index) = (0, rank);
        while let Some(len) = self.blocks.get(block).map(Vec::len).filter(|len| *len <= index) {
            index -= len;
            block += 1;
        }
        let first = self.blocks.get(block).map_or(&[][..], |slots| &slots[index..]);
        let rest = self.blocks.get(block + 1..).unwrap_or_default();
        first.iter().chain(rest.iter().flatten()).copied()
    }

    /// Whoever is equal to the one that is looked for.
    pub fn get(&self, place: impl Fn(Slot) -> Ordering) -> Option<Slot> {
        let (block, index) = self.find(&place);
        let slot = *self.blocks.get(block)?.get(index)?;
        (place(slot) == Ordering::Equal).then_some(slot)
    }

    pub fn insert(&mut self, slot: Slot, place: impl Fn(Slot) -> Ordering) {
        self.len += 1;
        let (block, index) = self.find(place);
        // Who comes last goes to the end of the last block.
        let (block, index) = match (self.blocks.get(block), block.checked_sub(1)) {
            (None, Some(last)) => (last, self.blocks[last].len()),
            (None, None) => {
                self.blocks.push(vec![slot]);
                return;
            }
            (Some(_), _) => (block, index),
        };
        let slots = &mut self.blocks[block];
        slots.insert(index, slot);
        if slots.len() >= 2 * BLOCK {
            let half = slots.split_off(BLOCK);
            self.blocks.insert(block + 1, half);
        }
    }

    pub fn remove(&mut self, place: impl Fn(Slot) -> Ordering) {
        let (block, index) = self.find(&place);
        let Some(slots) = self.blocks.get_mut(block) else { return };
        if slots.get(index).is_some_and(|slot| place(*slot) == Ordering::Equal) {
            slots.remove(index);
            self.len -= 1;
            if slots.is_empty() {
                self.blocks.remove(block);
            }
        }
    }

    /// Block and index of the first that does not stand before the one that is looked for.
    fn find(&self, place: impl Fn(Slot) -> Ordering) -> (usize, usize) {
        let before = |slot: &Slot| place(*slot) == Ordering::Less;
        let block = self.blocks.partition_point(|slots| slots.last().is_some_and(before));
        let index = self.blocks.get(block).map_or(0, |slots| slots.partition_point(before));
        (block, index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_orders_as_a_sorted_list_does() {
        let (mut order, mut sorted) = (Order::default(), std::collections::BTreeSet::new());
        // A walk through all remainders: neither rising nor falling.
        for step in 0..5_000_u32 {
            let slot = step * 3_571 % 5_003;
            order.insert(slot, |other| other.cmp(&slot));
            sorted.insert(slot);
            if step % 3 == 0 {
                let gone = step * 1_237 % 5_003;
                order.remove(|other| other.cmp(&gone));
                sorted.remove(&gone);
            }
        }
        assert_eq!(order.len(), sorted.len());
        assert!(order.blocks.len() > 2 && order.blocks.iter().all(|slots| slots.len() < 2 * BLOCK));
        assert!(order.from(0).eq(sorted.iter().copied()));
        assert!(order.from(1_234).eq(sorted.iter().copied().skip(1_234)));
        assert_eq!(order.from(order.len()).next(), None);
        assert_eq!(order.rank(|other| other.cmp(&2_000)), sorted.range(..2_000).count());
        let some = *sorted.iter().nth(777).expect("many");
        assert_eq!(order.get(|other| other.cmp(&some)), Some(some));
        assert_eq!(order.get(|other| other.cmp(&9_999)), None);
        for slot in sorted {
            order.remove(|other| other.cmp(&slot));
        }
        assert_eq!((order.len(), order.blocks.len(), order.from(0).next()), (0, 0, None));
    }
}
