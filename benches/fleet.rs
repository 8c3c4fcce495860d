//! How evenly shards and mailboxes lie over a fleet, and what moves when a worker joins or leaves: the pure functions alone, for
//! fleets that no test starts. `make bench-fleet`.

use restore_worker::domain::{MailboxId, Shard, ShardCount};

const MAILBOXES: usize = 100_000;
const LAYOUTS: [u16; 4] = [64, 256, 1_024, 4_096];
const FLEETS: [usize; 7] = [2, 4, 8, 16, 64, 256, 1_000];

fn main() {
    let mailboxes: Vec<_> = (0..MAILBOXES).filter_map(mailbox).collect();
    println!("{} mailboxes; shares: largest over mean", mailboxes.len());
    println!(
        "{:>7} {:>8} {:>14} {:>15} {:>10} {:>12} {:>12} {:>7}",
        "shards", "workers", "shards/worker", "mailbox share", "idle", "moved: join", "moved: leave", "ideal"
    );
    for layout in LAYOUTS {
        let Ok(count) = ShardCount::new(layout) else { continue };
        let mut in_shard = vec![0_usize; usize::from(layout)];
        for mailbox in &mailboxes {
            in_shard[usize::from(count.shard_of(mailbox).number())] += 1;
        }
        for workers in FLEETS {
            row(count, &in_shard, workers);
        }
    }
}

fn mailbox(n: usize) -> Option<MailboxId> {
    MailboxId::parse(&format!("MBX:{n:08x}-7f6e-4d5c-8b2a-1e3f4a5b6c7d@a7809c93-0000-4000-8000-000000000001"))
        .ok()
}

/// The worker that a shard lies at, by its place.
fn owners(count: ShardCount, workers: &[String]) -> Vec<usize> {
    let owner =
        |shard: Shard| (0..workers.len()).max_by_key(|w| (shard.priority(&workers[*w], 0), *w)).unwrap_or(0);
    count.shards().map(owner).collect()
}

#[expect(clippy::cast_precision_loss, reason = "counts below a million")]
fn row(count: ShardCount, in_shard: &[usize], workers: usize) {
    // As Kubernetes names a Deployment's pods: nothing in common but the prefix.
    let names: Vec<_> =
        (0..=workers).map(|n| format!("restore-worker-7c9d{:06x}", n * 2_654_435_761 % 0xff_ffff)).collect();
    let before = owners(count, &names[..workers]);
    let after = owners(count, &names);
    let without = owners(count, &names[1..workers.max(2)]);
    let (mut shards, mut boxes) = (vec![0_usize; workers], vec![0_usize; workers]);
    for (shard, owner) in before.iter().enumerate() {
        shards[*owner] += 1;
        boxes[*owner] += in_shard[shard];
    }
    let over_mean = |parts: &[usize]| {
        let largest = parts.iter().max().copied().unwrap_or(0) as f64;
        largest * parts.len() as f64 / parts.iter().sum::<usize>().max(1) as f64
    };
    let joined = before.iter().zip(&after).filter(|(a, b)| a != b).count();
    let left = before.iter().zip(&without).filter(|(a, b)| **a != **b + 1).count();
    let all = f64::from(count.get());
    println!(
        "{:>7} {:>8} {:>14.2} {:>15.2} {:>10} {:>11.2}% {:>11.2}% {:>6.2}%",
        count.get(),
        workers,
        over_mean(&shards),
        over_mean(&boxes),
        shards.iter().filter(|n| **n == 0).count(),
        joined as f64 * 100.0 / all,
        left as f64 * 100.0 / all,
        100.0 / (workers as f64 + 1.0),
    );
}
