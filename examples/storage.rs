//! Tries the blob store on a real S3 server, in a bucket of its own:
//! `AWS_ENDPOINT_URL_S3=… AWS_ACCESS_KEY_ID=… AWS_SECRET_ACCESS_KEY=… cargo run --example storage`.
//!
//! One line for each thing that must hold; fails if one does not. Written for servers that nobody here wrote.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, anyhow, bail};
use async_compression::tokio::bufread::{GzipEncoder, ZstdEncoder};
use aws_sdk_s3::{
    primitives::ByteStream,
    types::{BucketVersioningStatus, VersioningConfiguration},
};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use futures_util::StreamExt as _;
use restore_worker::{
    blob_store::{BlobStore, Settings},
    domain::{
        BlobRef, ByteRange, Compression, Encoding, Fault, FolderId, ImportMode, JobId, MailboxId,
        RestoreError, RestoreJob, TenantId,
    },
    fts::PreflightMode,
    metrics::Metrics,
    s3_client,
};
use tokio::io::AsyncReadExt as _;

/// Longer than what is kept in memory, so that everything streams.
const LONG: usize = 3 << 20;

/// A whole item with a body of `body` bytes, in one transfer buffer.
fn item(body: usize) -> anyhow::Result<Vec<u8>> {
    const HEAD: &str =
        "AQAAAAgAAAAAAAAAAQAAAAMAAAAYAAAAAQAAAAcDAgAAAAAAwAAAAAAAAEYAJACABAAAAAYAAAAUD9aRhhcCAAAA";
    let mut inner = b"\xB0\x84\x1A\0\x12\0\0\0I\0P\0M\0.\0N\0o\0t\0e\0\0\0\x02\x01\x13\x10".to_vec();
    inner.extend_from_slice(&u32::try_from(body)?.to_le_bytes());
    inner.extend((0..=250).cycle().take(body));
    Ok([&BASE64_STANDARD.decode(HEAD)?[..], &u32::try_from(inner.len())?.to_le_bytes(), &inner].concat())
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let bucket = format!("restore-worker-{}", std::process::id());
    let client = connect_client().await?;
    client.create_bucket().bucket(&bucket).send().await.context("create a bucket")?;
    let tried = try_all(&client, &bucket).await;
    println!("bucket {bucket} is left behind");
    tried
}

async fn try_all(client: &s3_client::Client, bucket: &str) -> anyhow::Result<()> {
    let (long, small) = (item(LONG)?, item(100)?);
    let store = connect(bucket, |_| ()).await?;
    let any = connect(bucket, |settings| settings.allowed_buckets.clear()).await?;
    holds(
        "the probe passes with a bucket and without",
        store.probe().await.is_ok() && any.probe().await.is_ok(),
    )?;

    let mut gzip = Vec::new();
    GzipEncoder::new(&*long).read_to_end(&mut gzip).await?;
    let mut zstd = Vec::new();
    ZstdEncoder::new(&*long).read_to_end(&mut zstd).await?;
    let lines: Vec<u8> = BASE64_STANDARD
        .encode(&long)
        .as_bytes()
        .chunks(76)
        .flat_map(|line| [line, b"\r\n"].concat())
        .collect();
    let key = "a b(1)'x/ü.fts";
    for (name, stored, encoding, compression, expected) in [
        ("raw, small", small.clone(), Encoding::Raw, Compression::None, &small),
        ("raw", long.clone(), Encoding::Raw, Compression::None, &long),
        ("base64 in lines", lines, Encoding::Base64, Compression::None, &long),
        ("gzip", gzip.clone(), Encoding::Raw, Compression::Gzip, &long),
        ("zstd", zstd, Encoding::Raw, Compression::Zstd, &long),
    ] {
        put(client, bucket, key, stored).await?;
        let job = job(bucket, key, |blob| (blob.encoding, blob.compression) = (encoding, compression))?;
        holds(name, read(&store, &job).await.is_ok_and(|bytes| bytes == *expected))?;
    }

    let packed = [&vec![7; 1000][..], &small, &vec![8; 1000]].concat();
    put(client, bucket, "packed", packed).await?;
    let range =
        |offset, length| job(bucket, "packed", |blob| blob.range = Some(ByteRange { offset, length }));
    let length = small.len() as u64;
    holds("a range", read(&store, &range(1000, length)?).await.is_ok_and(|bytes| bytes == small))?;
    fails("a range beyond the end", &store, &range(1 << 30, 5)?, "blob_corrupt").await?;
    fails("a range over the end", &store, &range(1000, 1 << 20)?, "blob_corrupt").await?;
    fails("no such key", &store, &job(bucket, "none", |_| ())?, "blob_not_found").await?;
    fails("no such bucket", &any, &job("restore-worker-no-such", "none", |_| ())?, "blob_forbidden").await?;
    fails("another bucket", &store, &job("other", "none", |_| ())?, "bucket_not_allowed").await?;

    put(client, bucket, key, gzip.clone()).await?;
    let compressed = job(bucket, key, |blob| blob.compression = Compression::Gzip)?;
    let etag = store.open(&compressed).await?.etag().map(str::to_owned);
    let stale = client
        .get_object()
        .bucket(bucket)
        .key(key)
        .if_match("\"0123456789abcdef0123456789abcdef\"")
        .send()
        .await;
    let status = stale.err().and_then(|error| error.raw_response().map(|answer| answer.status().as_u16()));
    holds("If-Match is honoured", etag.is_some() && status == Some(412))?;

    versions(client, bucket, &store).await?;

    let closed =
        connect(bucket, |settings| settings.client.endpoint = Some("http://127.0.0.1:9".into())).await?;
    let error = closed.open(&compressed).await.err().context("nobody listens there")?;
    holds("nobody at home is passing trouble", matches!(error.fault, Fault::Passing { .. }))
}

async fn versions(client: &s3_client::Client, bucket: &str, store: &BlobStore) -> anyhow::Result<()> {
    let on = VersioningConfiguration::builder().status(BucketVersioningStatus::Enabled).build();
    client.put_bucket_versioning().bucket(bucket).versioning_configuration(on).send().await?;
    let (first, second) = (item(100)?, item(200)?);
    let version = put(client, bucket, "versioned", first.clone()).await?;
    put(client, bucket, "versioned", second.clone()).await?;
    let of = |version: Option<String>| job(bucket, "versioned", |blob| blob.version_id = version);
    holds("the latest version", read(store, &of(None)?).await.is_ok_and(|bytes| bytes == second))?;
    holds(
        "an earlier version",
        version.is_some() && read(store, &of(version)?).await.is_ok_and(|bytes| bytes == first),
    )?;
    let unknown = of(Some("00000000000000000000000000000000".into()))?;
    fails("no such version", store, &unknown, "blob_not_found").await
}

fn holds(what: &str, so: bool) -> anyhow::Result<()> {
    println!("{} {what}", if so { "✓" } else { "✗" });
    if so { Ok(()) } else { bail!("does not hold: {what}") }
}

async fn fails(what: &str, store: &BlobStore, job: &RestoreJob, reason: &str) -> anyhow::Result<()> {
    let Err(error) = read(store, job).await else { bail!("{what}: read") };
    holds(
        &format!("{what}: {error} ({})", error.reason),
        error.reason.as_str() == reason && error.fault == Fault::Job,
    )
}

async fn read(store: &BlobStore, job: &RestoreJob) -> Result<Vec<u8>, RestoreError> {
    let (_, mut chunks) = store.open(job).await?.into_parts();
    let mut out = Vec::new();
    while let Some(chunk) = chunks.next().await {
        out.extend_from_slice(&chunk?);
    }
    Ok(out)
}

async fn put(
    client: &s3_client::Client,
    bucket: &str,
    key: &str,
    bytes: Vec<u8>,
) -> anyhow::Result<Option<String>> {
    let put = client.put_object().bucket(bucket).key(key).body(ByteStream::from(bytes)).send().await;
    Ok(put.with_context(|| format!("put {key}"))?.version_id().map(str::to_owned))
}

async fn connect_client() -> anyhow::Result<s3_client::Client> {
    s3_client::connect(&client_settings()).await.map_err(|problem| anyhow!(problem))
}

async fn connect(bucket: &str, change: impl FnOnce(&mut Settings)) -> anyhow::Result<BlobStore> {
    let mut settings = Settings {
        client: client_settings(),
        allowed_buckets: vec![bucket.into()],
        allowed_prefix: None,
        ledger: None,
        max_blob: 200 << 20,
        max_window: 8 << 20,
        min_download_rate: 64 << 10,
        retain: 256 << 10,
        preflight: PreflightMode::Framing,
    };
    change(&mut settings);
    let metrics = Arc::new(Metrics::register("0", "example")?);
    BlobStore::connect(settings, metrics).await.map_err(|problem| anyhow!(problem))
}

fn client_settings() -> s3_client::Settings {
    s3_client::Settings {
        endpoint: None,
        region: Some("us-east-1".into()),
        path_style: true,
        ca_pem: None,
        connect_timeout: Duration::from_secs(5),
        read_timeout: Duration::from_secs(30),
    }
}

fn job(bucket: &str, key: &str, change: impl FnOnce(&mut BlobRef)) -> anyhow::Result<RestoreJob> {
    let mut blob = BlobRef::plain(bucket, key);
    change(&mut blob);
    Ok(RestoreJob {
        id: JobId::parse("job")?,
        restore_id: None,
        requested_by: None,
        tenant: TenantId::parse("example.com")?,
        mailbox: MailboxId::parse("anna")?,
        folder: FolderId::parse("folder")?,
        mode: ImportMode::Create,
        blob,
        graph_version: None,
        not_after: None,
        metadata: None,
    })
}
