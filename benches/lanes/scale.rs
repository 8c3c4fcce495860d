//! A hundred thousand lanes for real: memory and time.

use restore_worker::pipeline::lanes::{
    core::{Core, Entry, Rules},
    window::Millis,
};
use tokio::time::Instant;

use crate::world;

const LANES: usize = 100_000;

pub(crate) struct Scale {
    pub(crate) mebibytes: f64,
    pub(crate) micros: f64,
}

/// Every lane has spent something, has a job waiting, and has turns to wait for; then jobs come, go to work and end.
pub(crate) fn run() -> Scale {
    let names: Vec<_> =
        (0..LANES).map(|n| (format!("t{}.example", n % 1_000), format!("MBX:{n:032x}@{n:032x}"))).collect();
    let entry = |n: usize, bytes| {
        let (tenant, mailbox) = &names[n];
        Entry { request_bytes: bytes, ..Entry::about(tenant, mailbox) }
    };
    let before = resident();
    let mut core = Core::new(Rules { hold: u64::MAX, ..world::rules() });
    let mut dice = fastrand::Rng::with_seed(1);
    for n in 0..LANES {
        core.enter(Millis(0), &entry(n, 50_000), n).expect("may wait");
        let (_, grant) = core.admit(Millis(0)).expect("room");
        core.end(Millis(0), grant);
    }
    let mut working = Vec::new();
    for n in 0..LANES {
        core.enter(Millis(1), &entry(n, 1_000_000), n).expect("may wait");
        working.extend(core.admit(Millis(1)).map(|(_, grant)| grant));
    }
    let mebibytes = (resident() - before) / 1_048_576.0;
    let (rounds, start) = (500_000, Instant::now());
    for round in 0..rounds {
        let now = Millis(2 + round / 10);
        core.enter(now, &entry(dice.usize(0..LANES), 44_000), 0).expect("may wait");
        core.end(now, working.swap_remove(dice.usize(0..working.len())));
        while let Some((_, grant)) = core.admit(now) {
            working.push(grant);
        }
    }
    let micros = start.elapsed().as_secs_f64() * 1e6 / 500_000.0;
    Scale { mebibytes, micros }
}

/// Bytes of this program that are in memory.
fn resident() -> f64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: f64 = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or_default();
    pages * 4_096.0
}
