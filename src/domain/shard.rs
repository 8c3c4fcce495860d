//! Which shard a mailbox belongs to, and which worker a shard: pure functions that every emitter and worker computes alike.

use aws_lc_rs::digest::{SHA256, digest};

use super::MailboxId;

/// How many shards a fleet's layout has, 1 to [`ShardCount::MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ShardCount(u16);

impl Default for ShardCount {
    fn default() -> Self {
        Self(64)
    }
}

impl ShardCount {
    /// Each shard is a queue with a consumer in every worker.
    pub const MAX: u16 = 4_096;

    /// # Errors
    /// What a person should read, when the number is 0 or above [`Self::MAX`].
    pub const fn new(count: u16) -> Result<Self, &'static str> {
        match count {
            1..=Self::MAX => Ok(Self(count)),
            _ => Err("must be a number from 1 to 4096"),
        }
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0
    }

    /// The shard of a mailbox: the first eight bytes, big endian, of SHA-256 of its id as it stands in the job, modulo the number
    /// of shards. Part of the contract: emitters may compute it too.
    #[must_use]
    pub fn shard_of(self, mailbox: &MailboxId) -> Shard {
        let head = first_eight(digest(&SHA256, mailbox.as_str().as_bytes()).as_ref());
        let number = u16::try_from(head % u64::from(self.0)).unwrap_or_default();
        Shard { count: self, number }
    }

    /// Every shard of this layout.
    pub fn shards(self) -> impl Iterator<Item = Shard> {
        (0..self.0).map(move |number| Shard { count: self, number })
    }
}

/// One shard of a layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shard {
    count: ShardCount,
    number: u16,
}

impl Shard {
    /// Of how many.
    #[must_use]
    pub const fn count(self) -> ShardCount {
        self.count
    }

    /// Its number, from 0.
    #[must_use]
    pub const fn number(self) -> u16 {
        self.number
    }

    /// How much a worker wants this shard: the highest in the fleet has it (rendezvous hashing), so a worker that joins takes its
    /// own part and one that leaves gives back only that.
    ///
    /// Two bytes of a hash over four of the time it began to consume, in seconds since 1970. The time never decides between two
    /// workers; it lets a worker outrank a consumer of its own former life that the broker still counts (`docs/fleet.md`, "What
    /// RabbitMQ gets wrong").
    #[must_use]
    pub fn priority(self, worker: &str, since: u32) -> i64 {
        let name = format!("{worker}/{}/{}", self.count.0, self.number);
        let digest = digest(&SHA256, name.as_bytes());
        let [high, low, ..] = digest.as_ref() else { return 0 };
        i64::from(u16::from_be_bytes([*high, *low])) << 32 | i64::from(since)
    }

    /// Whether a mailbox's jobs belong here.
    #[must_use]
    pub fn holds(self, mailbox: &MailboxId) -> bool {
        self.count.shard_of(mailbox) == self
    }
}

impl std::fmt::Display for Shard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.count.0, self.number)
    }
}

fn first_eight(digest: &[u8]) -> u64 {
    digest.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::{prop_assert, proptest};

    use super::*;

    fn count(n: u16) -> ShardCount {
        ShardCount::new(n).expect("a count")
    }

    /// The vectors of the contract; anyone's SHA-256 gives them.
    #[test]
    fn the_vectors_of_the_contract() {
        for (mailbox, of_64, of_256, of_1024) in [
            ("MBX:0d9b1ac3-7f6e-4d5c-8b2a-1e3f4a5b6c7d@a7809c93-0000-4000-8000-000000000001", 7, 135, 647),
            ("MBX:anna@a7809c93-0000-4000-8000-000000000001", 48, 48, 48),
            ("archive", 25, 217, 217),
        ] {
            let mailbox = MailboxId::parse(mailbox).expect("an id");
            let of = |n| count(n).shard_of(&mailbox).number();
            assert_eq!((of(64), of(256), of(1024)), (of_64, of_256, of_1024), "{mailbox}");
        }
    }

    proptest! {
        #[test]
        fn a_shard_is_one_of_its_layout_and_holds_what_it_is_given(id in "[A-Za-z0-9@:-]{1,80}", n in 1..=ShardCount::MAX) {
            let mailbox = MailboxId::parse(&id).expect("an id");
            let shard = count(n).shard_of(&mailbox);
            prop_assert!(shard.number() < n && shard.holds(&mailbox));
        }
    }

    fn owners(shards: ShardCount, workers: &[String]) -> HashMap<Shard, usize> {
        let owner =
            |shard: Shard| (0..workers.len()).max_by_key(|w| shard.priority(&workers[*w], 7)).unwrap_or(0);
        shards.shards().map(|shard| (shard, owner(shard))).collect()
    }

    #[test]
    fn who_joins_takes_its_part_and_nothing_else_moves() {
        let workers: Vec<_> = (0..9).map(|n| format!("restore-worker-{n}")).collect();
        let (before, after) = (owners(count(256), &workers[..8]), owners(count(256), &workers));
        let moved: Vec<_> = after.iter().filter(|(shard, owner)| before[*shard] != **owner).collect();
        assert!(moved.iter().all(|(_, owner)| **owner == 8));
        assert!((14..=43).contains(&moved.len()), "about a ninth of 256: {}", moved.len());
    }

    #[test]
    fn who_comes_back_outranks_its_former_life_and_nobody_else_because_of_it() {
        let shard = count(256).shards().nth(3).expect("one of 256");
        for (a, b) in [("restore-worker-0", "restore-worker-1"), ("restore-worker-2", "restore-worker-3")] {
            assert!(shard.priority(a, 1_795_000_001) > shard.priority(a, 1_795_000_000));
            let a_wins = shard.priority(a, 0) > shard.priority(b, 0);
            assert_eq!(shard.priority(a, 0) > shard.priority(b, u32::MAX), a_wins);
            assert_eq!(shard.priority(a, u32::MAX) > shard.priority(b, 0), a_wins);
        }
        assert!(shard.priority("x", u32::MAX) > 0);
    }

    #[test]
    fn counts_that_are_none() {
        assert!(ShardCount::new(0).is_err() && ShardCount::new(4_097).is_err());
    }
}
