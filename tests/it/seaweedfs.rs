//! Blobs and the ledger on SeaweedFS: an S3 server that nobody here wrote.

use std::path::Path;

use anyhow::{Context as _, Result};
use aws_sdk_s3::{
    Client,
    config::{BehaviorVersion, Credentials, Region},
    primitives::ByteStream,
};
use restore_sandbox::{
    exchange::{Cut, Effect, Fault, Operation},
    fts::ItemSpec,
    s3::{ACCESS_KEY, SECRET_KEY},
    seaweedfs::SeaweedFs,
    stack::{BLOBS, RECORDS, create_job},
};

use restore_worker::domain::hex::hex;

use crate::support::{binary, stack};

fn client(endpoint: &str) -> Client {
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .credentials_provider(Credentials::new(ACCESS_KEY, SECRET_KEY, None, None, "test"))
        .region(Region::new("us-east-1"))
        .endpoint_url(endpoint)
        .force_path_style(true)
        .build();
    Client::from_conf(config)
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_are_done_once_with_blobs_and_records_on_a_foreign_server() -> Result<()> {
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("seaweedfs");
    let weed = SeaweedFs::start(&cache).await?;
    let client = client(&weed.endpoint());
    for bucket in [BLOBS, RECORDS] {
        client.create_bucket().bucket(bucket).send().await.context("create a bucket")?;
    }
    let stack = stack("seaweedfs").await?;
    let mailbox = stack.mailbox("anna");
    let mut items = Vec::new();
    for n in 0..12 {
        let item = ItemSpec::mail(n, if n % 3 == 0 { 900_000 } else { 20_000 });
        let body = ByteStream::from(item.to_bytes());
        client
            .put_object()
            .bucket(BLOBS)
            .key(format!("{n}.fts"))
            .body(body)
            .send()
            .await
            .context("put a blob")?;
        items.push(item);
    }
    // Two answers are lost after the item was stored: only the ledger and a look keep these from being done twice.
    stack.exchange.add_fault(Fault::new(Operation::Import, Effect::CutAfter(Cut::Reset)).times(2))?;
    let endpoint = weed.endpoint();
    let more = [
        ("STORAGE__ENDPOINT", endpoint.as_str()),
        ("EXCHANGE__REQUEST_TIMEOUT", "1s"),
        ("IN_DOUBT__CLOCK_MARGIN", "1s"),
    ];
    let _worker = stack.worker(binary(), &more).await?;
    let mut emitter = stack.emitter().await?;
    let jobs = (0..12).map(|n| create_job(&format!("j-{n}"), &mailbox, &format!("{n}.fts")));
    // Every job twice: the second is told from the record.
    let jobs: Vec<_> = jobs.flat_map(|job| [job.clone(), job]).collect();
    emitter.publish_all(jobs).await?;
    for (id, events) in emitter.results_of(12).await? {
        assert!(events.iter().all(|told| told["status"] == "succeeded"), "{id}: {events:#?}");
    }
    let mut stored: Vec<_> = stack.exchange.items(&mailbox).into_iter().map(|item| item.sha256).collect();
    let mut expected: Vec<String> = items.iter().map(|item| hex(&item.sha256())).collect();
    stored.sort();
    expected.sort();
    assert_eq!(stored, expected, "each item exactly once");
    let records = client.list_objects_v2().bucket(RECORDS).prefix("restore-ledger/jobs/").send().await?;
    assert_eq!(records.contents().len(), 12);
    Ok(())
}
