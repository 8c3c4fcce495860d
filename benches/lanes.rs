//! Hours of load in seconds: the pure core of the lanes under a virtual clock, against a strict model of Exchange's
//! limiter and a model of the broker with its wait tiers. Prints a table; asserts nothing.

#![expect(clippy::cast_precision_loss, reason = "numbers for people")]

#[path = "lanes/exchange.rs"]
mod exchange;
#[path = "lanes/scale.rs"]
mod scale;
#[path = "lanes/world.rs"]
mod world;

use restore_worker::pipeline::lanes::{core::Rules, window::Quota};

use exchange::{WINDOW, WINDOW_BYTES};
use world::{World, rules};

const KIB: u64 = 1_024;
const MIB: u64 = 1_048_576;
const HOUR: u64 = 3_600_000;

/// The request that carries so many bytes.
fn body(fts: u64) -> u64 {
    fts.div_ceil(3) * 4 + 200
}

/// Between `least` and `most`, each order of magnitude as often.
fn log_uniform(dice: &mut fastrand::Rng, least: f64, most: f64) -> u64 {
    let size = least * (most / least).powf(dice.f64());
    format!("{size:.0}").parse().expect("a number without a fraction")
}

fn line(what: &str, wanted: &str, got: &str) {
    println!("| {what:<58} | {wanted:<16} | {got} |");
}

fn main() {
    println!("| {:<58} | {:<16} | got |\n|{:-<60}|{:-<18}|-----|", "what", "wanted", "", "");
    let wanted: Vec<_> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    let parts: [(&str, fn()); 8] = [
        ("one", one_worker),
        ("shard", one_shard),
        ("shared", shared),
        ("mixed", mixed),
        ("equal", equal),
        ("slowed", slowed),
        ("floods", floods),
        ("scale", scale),
    ];
    for (name, part) in parts {
        if wanted.is_empty() || wanted.iter().any(|wanted| wanted == name) {
            part();
        }
    }
}

fn scale() {
    let scale::Scale { mebibytes, micros } = scale::run();
    line("100,000 lanes, a job waiting in each: memory", "< 100 MiB", &format!("{mebibytes:.0} MiB"));
    line("  enter + admit + end, the three together", "< 5 µs each", &format!("{micros:.2} µs"));
}

/// Bytes per mailbox within the second to last window of the run, as a part of the quota: least and mean.
struct Used {
    least: f64,
    mean: f64,
    refused: f64,
    bounces: f64,
}

/// Runs `windows` windows after the first and measures them.
fn measure(world: &mut World, windows: u64) -> Used {
    world.run_until(WINDOW);
    let imported = |world: &World| world.mailboxes.iter().map(|m| m.imported as f64).collect::<Vec<_>>();
    let before = imported(world);
    world.run_until(WINDOW * (windows + 1));
    let quota = WINDOW_BYTES as f64 * windows as f64;
    let used: Vec<_> =
        imported(world).iter().zip(before).map(|(after, before)| (after - before) / quota).collect();
    let requests: u64 = world.mailboxes.iter().map(|m| m.imported_requests + m.refused).sum();
    let refused: u64 = world.mailboxes.iter().map(|m| m.refused).sum();
    let done: Vec<_> = world.jobs.iter().filter(|job| job.done.is_some()).collect();
    Used {
        least: used.iter().copied().fold(f64::INFINITY, f64::min),
        mean: used.iter().sum::<f64>() / used.len() as f64,
        refused: refused as f64 / requests as f64,
        bounces: done.iter().map(|job| f64::from(job.bounces)).sum::<f64>() / done.len() as f64,
    }
}

impl Used {
    fn show(&self) -> String {
        format!(
            "{:.2} % of the quota (least {:.2} %), {:.3} % refused, {:.1} bounces per job",
            self.mean * 100.0,
            self.least * 100.0,
            self.refused * 100.0,
            self.bounces
        )
    }
}

/// A backlog for `mailboxes` in random order, `per_mailbox` bytes each.
fn backlog(
    world: &mut World,
    mailboxes: usize,
    per_mailbox: u64,
    mut size: impl FnMut(&mut fastrand::Rng) -> u64,
) {
    let mut dice = fastrand::Rng::with_seed(3);
    let mut left = vec![per_mailbox; mailboxes];
    let mut open: Vec<_> = (0..mailboxes).collect();
    while !open.is_empty() {
        let at = dice.usize(0..open.len());
        let mailbox = open[at];
        let bytes = body(size(&mut dice));
        world.publish(mailbox, bytes);
        left[mailbox] = left[mailbox].saturating_sub(bytes);
        if left[mailbox] == 0 {
            open.swap_remove(at);
        }
    }
}

fn one_worker() {
    let windows = 36;
    for (what, least, most) in [
        ("items of 1 MiB", MIB, MIB),
        ("items of 100 KiB", 100 * KIB, 100 * KIB),
        ("items of 16 KiB to 1 MiB", 16 * KIB, MIB),
    ] {
        let mut world = World::new(16, 1, rules());
        let size = |dice: &mut fastrand::Rng| log_uniform(dice, least as f64, most as f64);
        backlog(&mut world, 16, WINDOW_BYTES * (windows + 4), size);
        line(
            &format!("one worker, 16 busy mailboxes, 3 h, {what}"),
            "≥ 98 %, < 0.1 %",
            &measure(&mut world, windows).show(),
        );
    }
}

/// A shard's prefetch for all of them; and how long a hand-over would last: as long as what is held is held.
fn one_shard() {
    let windows = 36;
    for (what, size) in [("100 KiB", 100 * KIB), ("1 MiB", MIB), ("25 MiB", 25 * MIB)] {
        for mailboxes in [1, 2, 4] {
            let mut world = World::of_a_shard(mailboxes, rules());
            backlog(&mut world, mailboxes, WINDOW_BYTES * (windows + 4), |_| size);
            let used = measure(&mut world, windows).show();
            let mut held: Vec<_> = world.jobs.iter().filter_map(|job| Some(job.done? - job.held)).collect();
            held.sort_unstable();
            let median = held[held.len() / 2] as f64 / 1_000.0;
            let most = held.last().map_or(0.0, |most| *most as f64 / 1_000.0);
            line(
                &format!("one shard, busy mailboxes: {mailboxes}, 3 h, items of {what}"),
                "≥ 98 %, < 0.1 %",
                &format!("{used}, held {median:.0} s, at most {most:.0} s"),
            );
        }
    }
}

fn shared() {
    let windows = 72;
    let by_hand = Quota { amount: WINDOW_BYTES / 4, every: WINDOW };
    let hand = Rules {
        bytes: by_hand,
        requests: Quota { amount: 2_500, ..rules().requests },
        per_mailbox: 1,
        ..rules()
    };
    for (what, rules, change) in [
        ("finding the limit by refusals", rules(), 0),
        ("same, two leave after 3 h", rules(), 1),
        ("same, two come after 3 h", rules(), 2),
        ("lanes.share 0.25 and one place by hand", hand, 0),
    ] {
        let mut world = World::new(16, 4, rules);
        backlog(&mut world, 16, WINDOW_BYTES * (windows + 4), |_| MIB / 2);
        for worker in [2, 3] {
            match change {
                1 => world.leave_at(worker, 36 * WINDOW),
                2 => world.join_at(worker, 36 * WINDOW),
                _ => {}
            }
        }
        line(
            &format!("4 workers share 16 mailboxes, 6 h, {what}"),
            "say",
            &measure(&mut world, windows).show(),
        );
    }
}

fn mixed() {
    let mut world = World::new(1, 1, rules());
    let mut dice = fastrand::Rng::with_seed(5);
    for _ in 0..300 {
        world.publish(0, body(log_uniform(&mut dice, 4_096.0, 100e6)));
    }
    world.run_to_the_end(100 * HOUR);
    let longest = world.longest_turn as f64 / WINDOW as f64;
    let bytes: u64 = world.jobs.iter().map(|job| job.bytes).sum();
    let needed = bytes as f64 / WINDOW_BYTES as f64 * WINDOW as f64;
    let took = world.jobs.iter().filter_map(|job| job.done).max().unwrap_or_default() as f64;
    let refused = world.mailboxes[0].refused;
    line(
        "one mailbox, 300 items of 4 KiB to 100 MB: longest turn",
        "≤ 2 windows",
        &format!("{longest:.2} windows; {:.0} % of the quota, {refused} refused", needed / took * 100.0),
    );
}

fn jain(values: &[f64]) -> f64 {
    let sum: f64 = values.iter().sum();
    sum * sum / (values.len() as f64 * values.iter().map(|value| value * value).sum::<f64>())
}

fn equal() {
    for (what, in_flight) in [("64 places", 64), ("8 places: they compete", 8)] {
        let mut world = World::new(100, 1, Rules { in_flight, ..rules() });
        backlog(&mut world, 100, WINDOW_BYTES * 14, |dice| log_uniform(dice, 16_384.0, 1e6));
        world.run_until(HOUR);
        let imported: Vec<_> = world.mailboxes.iter().map(|m| m.imported as f64).collect();
        let total = imported.iter().sum::<f64>() / 3.6e9;
        line(
            &format!("100 equal mailboxes, 1 h, {what}: Jain's index"),
            "≥ 0.99",
            &format!("{:.4} ({total:.1} MB/s)", jain(&imported)),
        );
    }
}

fn slowed() {
    let alone = others(|_| ());
    let flooded = others(|world| (0..100_000).for_each(|_| world.publish(0, body(100 * KIB))));
    let throttled = others(|world| {
        world.mailboxes[0].hostile = true;
        (0..2_000).for_each(|_| world.publish(0, body(100 * KIB)));
    });
    for (what, bytes) in [("flooded: 100,000 jobs in front", flooded), ("always throttled", throttled)] {
        line(
            &format!("99 mailboxes beside one {what}"),
            "slower by < 2 %",
            &format!("{:+.2} % bytes in the hour ({:.1} MB/s)", (bytes / alone - 1.0) * 100.0, bytes / 3.6e9),
        );
    }
}

/// Bytes that 99 mailboxes get in an hour, which have more to do than that.
fn others(first: impl FnOnce(&mut World)) -> f64 {
    let mut world = World::new(100, 1, rules());
    first(&mut world);
    let from = world.jobs.len();
    let mut dice = fastrand::Rng::with_seed(9);
    for _ in 0..2_500 {
        for mailbox in 1..100 {
            world.publish(mailbox, body(log_uniform(&mut dice, 65_536.0, 3e6)));
        }
    }
    world.run_until(HOUR);
    world.jobs[from..].iter().filter(|job| job.done.is_some()).map(|job| job.bytes as f64).sum()
}

fn floods() {
    for (what, fts) in [("4 KiB", 4 * KIB), ("100 KiB", 100 * KIB), ("1 MiB", MIB)] {
        let mut world = World::new(1, 1, rules());
        (0..100_000).for_each(|_| world.publish(0, body(fts)));
        world.run_to_the_end(400 * HOUR);
        let mut bounces: Vec<_> = world.jobs.iter().map(|job| job.bounces).collect();
        bounces.sort_unstable();
        let mean = bounces.iter().map(|n| f64::from(*n)).sum::<f64>() / bounces.len() as f64;
        let took = world.jobs.iter().filter_map(|job| job.done).max().unwrap_or_default() as f64;
        let bytes = body(fts) as f64 * 1e5;
        let least = ((bytes / WINDOW_BYTES as f64 - 1.0) * WINDOW as f64)
            .max((1e5 / 1e4 - 1.0) * 600_000.0)
            .max(1e5 * (300.0 + body(fts) as f64 / 5_000.0) / 4.0);
        line(
            &format!("flood of 100,000 jobs of {what}: bounces per job"),
            "about a dozen",
            &format!(
                "mean {mean:.1}, 99 % ≤ {}, most {}; {:.1} h, {:.1} % of what quota and places allow",
                bounces[98_999],
                bounces[99_999],
                took / 3.6e6,
                least / took * 100.0
            ),
        );
    }
}
