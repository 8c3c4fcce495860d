//! Whose turn it is: fair queueing by bytes.
//!
//! The law of deficit round robin (whoever is always ready gets an equal share of the bytes, whatever the sizes of items)
//! without its rounds: everybody carries the bytes taken so far, the one with the fewest goes next, and who comes back
//! starts at the present minimum, so that nobody saves up turns by being away. O(log n) even where items differ by 25,000.

use std::collections::BTreeSet;

/// Those that are ready, in the order of their turns.
#[derive(Debug, Default)]
pub struct Turns {
    /// Bytes taken by whoever went last, before it went.
    present: u64,
    ready: BTreeSet<(u64, u32)>,
}

/// One member's account.
#[derive(Clone, Copy, Debug, Default)]
pub struct Account {
    taken: u64,
    queued: bool,
}

impl Turns {
    /// Whose turn it is.
    #[must_use]
    pub fn first(&self) -> Option<u32> {
        self.ready.first().map(|(_, id)| *id)
    }

    /// Whether nobody is ready.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ready.is_empty()
    }

    /// `id` is ready or is not.
    pub fn set(&mut self, id: u32, account: &mut Account, ready: bool) {
        if account.queued && !ready {
            self.ready.remove(&(account.taken, id));
        } else if ready && !account.queued {
            account.taken = account.taken.max(self.present);
            self.ready.insert((account.taken, id));
        }
        account.queued = ready;
    }

    /// `id`, whose turn it was, has taken `bytes`.
    pub fn take(&mut self, id: u32, account: &mut Account, bytes: u64) {
        self.present = self.present.max(account.taken);
        self.correct(id, account, 0, bytes.max(1));
    }

    /// `id` has taken `to`, not `from`.
    pub fn correct(&mut self, id: u32, account: &mut Account, from: u64, to: u64) {
        let queued = account.queued && self.ready.remove(&(account.taken, id));
        account.taken = account.taken.saturating_sub(from).saturating_add(to);
        if queued {
            self.ready.insert((account.taken, id));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn always_ready_members_get_equal_bytes() {
        let mut turns = Turns::default();
        let (mut accounts, sizes, mut got) =
            ([Account::default(); 3], [4_096_u64, 1_000_000, 77], [0_u64; 3]);
        for (id, account) in (0_u32..).zip(&mut accounts) {
            turns.set(id, account, true);
        }
        for _ in 0..1_000_000 {
            let id = turns.first().expect("all are ready");
            let at = usize::try_from(id).expect("small");
            turns.take(id, &mut accounts[at], sizes[at]);
            got[at] += sizes[at];
        }
        let (least, most) = (got.iter().min().expect("three"), got.iter().max().expect("three"));
        assert!(most - least <= 2_000_000, "{got:?}");
    }

    #[test]
    fn being_away_saves_up_nothing() {
        let mut turns = Turns::default();
        let (mut busy, mut away) = (Account::default(), Account::default());
        turns.set(0, &mut busy, true);
        for _ in 0..1_000 {
            turns.take(0, &mut busy, 10);
        }
        turns.set(1, &mut away, true);
        let mut row = 0;
        while turns.first() == Some(1) {
            turns.take(1, &mut away, 10);
            row += 1;
        }
        assert!(row <= 2, "{row} turns in a row");
    }
}
