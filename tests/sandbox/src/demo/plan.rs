//! What is restored: sizes, modes and mailboxes from one seed, and laying it all out.

use std::f64::consts::TAU;

use anyhow::Result;
use aws_lc_rs::digest::{Context, SHA256};
use bytes::Bytes;
use restore_sandbox::{
    exchange::ItemFacts,
    fts::ItemSpec,
    stack::{BLOBS, FOLDER, Stack, create_job, update_job},
};
use serde_json::Value;

/// The smallest item.
const SMALLEST: usize = 4 << 10;
/// The largest.
const LARGEST: usize = 20 << 20;
/// Half of the items are smaller.
const MEDIAN: f64 = 96.0 * 1_024.0;
/// Of the logarithm: with it the mean is some seven times the median, as mailboxes have it.
const SPREAD: f64 = 2.0;
/// Every so-many-th item is an update.
const UPDATES: u32 = 4;

/// One item.
#[derive(Clone, Debug)]
pub(super) struct Item {
    /// The job's id.
    pub(super) job: String,
    /// Its mailbox.
    pub(super) mailbox: usize,
    /// Item id and change key, of an update.
    pub(super) updates: Option<(String, String)>,
    /// Bytes that are to be there.
    pub(super) size: u64,
    /// Their digest, hexadecimal.
    pub(super) sha256: String,
    update: bool,
    seed: u64,
    asked: usize,
}

/// All of them.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) items: Vec<Item>,
    pub(super) mailboxes: Vec<String>,
    mailbox_count: u32,
}

impl Plan {
    /// Sizes in log-normal distribution, the smallest and the largest certainly among them.
    pub(super) fn make(items: u32, mailboxes: u32, seed: u64) -> Self {
        let mut dice = fastrand::Rng::with_seed(seed);
        let mut item = |n: u32| Item {
            job: format!("demo-{seed}-{n:05}"),
            mailbox: dice.usize(..mailboxes as usize),
            updates: None,
            size: 0,
            sha256: String::new(),
            update: n % UPDATES == UPDATES - 1,
            seed: seed.wrapping_mul(1_000_003).wrapping_add(n.into()),
            asked: match n {
                0 => SMALLEST,
                1 => LARGEST,
                _ => some_size(&mut dice),
            },
        };
        Self { items: (0..items).map(&mut item).collect(), mailboxes: Vec::new(), mailbox_count: mailboxes }
    }

    /// Puts blobs into storage, and into the mailboxes what is to be updated. Gives the jobs.
    pub(super) async fn lay_out(&mut self, stack: &Stack) -> Result<Vec<Value>> {
        self.mailboxes = (1..=self.mailbox_count).map(|n| stack.mailbox(&format!("user{n:02}"))).collect();
        let halves = self.items.len().div_ceil(2);
        let specs: Vec<(u64, usize)> = self.items.iter().map(|item| (item.seed, item.asked)).collect();
        let halves = specs.chunks(halves.max(1)).enumerate().map(|(half, specs)| {
            let (specs, backend, first) = (specs.to_vec(), stack.s3.backend().clone(), half * halves);
            tokio::task::spawn_blocking(move || {
                let store = |(n, (seed, asked)): (usize, (u64, usize))| {
                    let spec = ItemSpec::mail(seed, asked);
                    let chunks: Vec<_> = spec.chunks().collect();
                    let made = (chunks.iter().map(|c| c.len() as u64).sum(), sha256(&chunks));
                    backend.put(BLOBS, &key(first + n), chunks);
                    made
                };
                specs.into_iter().enumerate().map(store).collect::<Vec<(u64, String)>>()
            })
        });
        let mut made = Vec::new();
        for half in halves.collect::<Vec<_>>() {
            made.extend(half.await?);
        }
        for (item, (size, sha256)) in self.items.iter_mut().zip(made) {
            (item.size, item.sha256) = (size, sha256);
        }
        Ok(self.jobs(stack))
    }

    fn jobs(&mut self, stack: &Stack) -> Vec<Value> {
        let mailboxes = &self.mailboxes;
        let job = |(n, item): (usize, &mut Item)| {
            let mailbox = &mailboxes[item.mailbox];
            let mut job = if item.update {
                let old = ItemSpec::mail(!item.seed, SMALLEST).to_bytes();
                let keys = stack.exchange.add_item(mailbox, FOLDER, ItemFacts::default(), &old);
                let job = update_job(&item.job, mailbox, &key(n), &keys.0, &keys.1);
                item.updates = Some(keys);
                job
            } else {
                create_job(&item.job, mailbox, &key(n))
            };
            job["blob"]["size"] = item.size.into();
            job["blob"]["sha256"] = item.sha256.as_str().into();
            job
        };
        self.items.iter_mut().enumerate().map(job).collect()
    }

    /// Search keys of a few creates, spread over the run.
    pub(super) fn some_creates(&self, count: usize) -> Vec<[u8; 16]> {
        let creates: Vec<&Item> = self.items.iter().filter(|item| !item.update).collect();
        let chosen = (1..=count).filter_map(|n| creates.get(n * creates.len() / (count + 1)));
        chosen.filter_map(|item| ItemSpec::mail(item.seed, SMALLEST).search_key).collect()
    }

    /// Bytes of all items.
    pub(super) fn bytes(&self) -> u64 {
        self.items.iter().map(|item| item.size).sum()
    }
}

fn key(n: usize) -> String {
    format!("demo/{n:05}.fts")
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to a size")]
fn some_size(dice: &mut fastrand::Rng) -> usize {
    // Box and Muller's way to a normal distribution.
    let normal = (-2.0 * (1.0 - dice.f64()).ln()).sqrt() * (TAU * dice.f64()).cos();
    ((MEDIAN * (SPREAD * normal).exp()) as usize).clamp(SMALLEST, LARGEST)
}

fn sha256(chunks: &[Bytes]) -> String {
    let mut digest = Context::new(&SHA256);
    for chunk in chunks {
        digest.update(chunk);
    }
    digest.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat()
}
