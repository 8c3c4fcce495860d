//! The pure hot paths on their own, with Criterion: what a job costs before any socket. `make bench-pure ARGS=body` runs one.

use std::{hint::black_box, time::Duration};

use aws_lc_rs::digest::{Context, SHA256};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use criterion::{BenchmarkId, Criterion, Throughput};
use restore_sandbox::{fts::ItemSpec, stack::create_job};
use restore_worker::{
    contract::{Parser, Subject, Worker, Wrapping, render},
    domain::{ChangeKey, Event, Evidence, Imported, ItemId, Outcome, Timings, UnixMillis},
    fts::{Preflight, PreflightMode},
    pipeline::lanes::{
        core::{Core, Entry, Rules},
        window::{Millis, Quota},
    },
};

/// Length of the chunks that the HTTP client hands over, about.
const CHUNK: usize = 48 * 1024;
const SIZES: [(&str, usize); 3] = [("4 KiB", 4 << 10), ("32 KiB", 32 << 10), ("1 MiB", 1 << 20)];
const MAILBOX: &str = "MBX:e0648f21-2c21-4a3f-9f3c-7d2a9d7f6b11@84df9e7f-e9f6-40af-b435-aaaaaaaaaaaa";

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(3))
        .configure_from_args();
    preflight(&mut criterion);
    body(&mut criterion);
    lanes(&mut criterion);
    contract(&mut criterion);
    criterion.final_summary();
}

fn checked(item: &[u8], mode: PreflightMode) {
    let mut preflight = Preflight::new(mode);
    for chunk in item.chunks(CHUNK) {
        preflight.feed(chunk).expect("the sandbox writes sound items");
    }
    black_box(preflight.finish().expect("the sandbox writes sound items"));
}

fn preflight(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("preflight");
    for (name, size) in SIZES {
        let item = ItemSpec::mail(1, size).to_bytes();
        group.throughput(Throughput::Bytes(item.len() as u64));
        for (mode, word) in [(PreflightMode::Framing, "framing"), (PreflightMode::Strict, "strict")] {
            group.bench_with_input(BenchmarkId::new(word, name), &item, |bench, item| {
                bench.iter(|| checked(item, mode));
            });
        }
    }
    group.finish();
}

/// What happens to each byte between storage and Exchange.
fn body(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("body: digest, preflight, base64");
    for (name, size) in SIZES {
        let item = ItemSpec::mail(1, size).to_bytes();
        let mut text = String::with_capacity(CHUNK / 3 * 4);
        group.throughput(Throughput::Bytes(item.len() as u64));
        group.bench_with_input(BenchmarkId::from_parameter(name), &item, |bench, item| {
            bench.iter(|| {
                let mut digest = Context::new(&SHA256);
                let mut preflight = Preflight::new(PreflightMode::Framing);
                for chunk in item.chunks(CHUNK) {
                    digest.update(chunk);
                    preflight.feed(chunk).expect("the sandbox writes sound items");
                    text.clear();
                    BASE64_STANDARD.encode_string(chunk, &mut text);
                    black_box(&text);
                }
                black_box((digest.finish(), preflight.finish().expect("the sandbox writes sound items")));
            });
        });
    }
    group.finish();
}

/// A job enters, is admitted and ends, in a worker that knows so many mailboxes.
fn lanes(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("lanes: enter, admit, end");
    for known in [1_usize, 100, 10_000] {
        let names: Vec<_> = (0..known).map(|n| format!("MBX:{n:032x}@{n:032x}")).collect();
        group.bench_function(BenchmarkId::from_parameter(format!("{known} mailboxes")), |bench| {
            let mut core = Core::new(rules());
            let mut turn = 0;
            bench.iter(|| {
                turn += 1;
                let mailbox = &names[turn % known];
                let now = Millis(u64::try_from(turn / 1_000).expect("small"));
                core.enter(now, &entry(mailbox), turn).expect("there is room");
                let (token, grant) = core.admit(now).expect("there is room");
                core.end(now, grant);
                black_box(token);
            });
        });
    }
    group.finish();
}

/// Quotas that no run comes near: the cost of counting, not of waiting.
fn rules() -> Rules {
    let plenty = Quota { amount: u64::MAX / 4, every: 300_000 };
    Rules { in_flight: 64, per_mailbox: 4, bytes: plenty, requests: plenty, hold: 512, hold_per_shard: 16 }
}

fn entry(mailbox: &str) -> Entry<'_> {
    Entry { request_bytes: 44_000, ..Entry::about("tenant.example", mailbox) }
}

fn contract(criterion: &mut Criterion) {
    let mut job = create_job("restore-7f/item-000042", MAILBOX, "tenant/mailbox/item-000042.fts");
    job["metadata"] = serde_json::json!({ "filler": "x".repeat(700) });
    let message = job.to_string().into_bytes();
    let parser = Parser::default();
    let wrapping = Wrapping { content_type: Some("application/json"), ..Wrapping::default() };
    let parsed = parser.parse(&message, wrapping).expect("a job");
    let worker = Worker { name: "restore-worker-5c8d7".into(), version: "0.1.0".into() };
    let subject = Subject { job_id: parsed.id.as_str(), job: Some(&parsed), body: &message };
    let event = event();
    let mut group = criterion.benchmark_group("contract, 1 KiB");
    group.bench_function("parse a job", |bench| {
        bench.iter(|| parser.parse(black_box(&message), wrapping).expect("a job"));
    });
    group.bench_function("render an event", |bench| {
        bench.iter(|| {
            render(black_box(subject), None, &event, &worker, UnixMillis(1_790_000_000_000))
                .expect("an event")
        });
    });
    group.finish();
}

fn event() -> Event {
    let item_id = ItemId::parse(&"A".repeat(152)).expect("an id");
    let change_key = ChangeKey::parse("CQAAABYAAAA4gJ8kRUZ").expect("a key");
    Event {
        outcome: Outcome::Succeeded {
            imported: Imported { item_id, change_key },
            evidence: Evidence::Answer,
            duplicates: Vec::new(),
        },
        replay: 0,
        bytes: Some(32 << 10),
        sha256: Some([7; 32]),
        attempts: Some(1),
        request_id: Some("4b2c7a0e-3f0b-4a55-9a3e-0c6d1c1f5f52".into()),
        timings: Some(Timings::default()),
        findings: Vec::new(),
    }
}
