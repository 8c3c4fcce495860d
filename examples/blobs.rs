//! Measures the way of a blob through the worker.
//!
//! `cargo run --release --example blobs -- speed`: GiB/s of one core for each step on 48 KiB chunks, in one run.
//! `cargo run --release --example blobs -- memory raw|gzip|base64|zstd|bomb COUNT MIB`: peak RSS while COUNT items of MIB stream at
//! once from a server in the same process (whose share is in the number, so the worker's is less). Wants
//! `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`, any values.

use std::{hint::black_box, sync::Arc, time::Duration};

use anyhow::{Context as _, anyhow, bail};
use async_compression::{
    Level,
    tokio::bufread::{GzipEncoder, ZstdEncoder},
    zstd::CParameter,
};
use aws_lc_rs::digest::{Context, SHA256};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use bytes::Bytes;
use futures_util::StreamExt as _;
use restore_worker::{
    blob_store::{BlobStore, Settings},
    domain::{BlobRef, Compression, Encoding, FolderId, ImportMode, JobId, MailboxId, RestoreJob, TenantId},
    fts::{Preflight, PreflightMode},
    metrics::Metrics,
    s3_client,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::Instant,
};

const CHUNK: usize = 48 * 1024;
/// The head of every known export, with a version of Exchange Online.
const HEAD: [u8; 62] = [
    1, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 3, 0, 0, 0, 24, 0, 0, 0, 1, 0, 0, 0, 7, 3, 2, 0, 0, 0, 0,
    0, 0xC0, 0, 0, 0, 0, 0, 0, 0x46, 0, 0x24, 0, 0x80, 4, 0, 0, 0, 6, 0, 0, 0, 0x14, 0x0F, 0xD6, 0x91, 0x86,
    0x17,
];

/// An item whose body makes up nearly all of it, in full transfer buffers.
fn item(mib: usize) -> anyhow::Result<Vec<u8>> {
    let body = mib << 20;
    let mut inner = b"\xB0\x84\x1A\0\x12\0\0\0I\0P\0M\0.\0N\0o\0t\0e\0\0\0\x02\x01\x13\x10".to_vec();
    inner.extend_from_slice(&u32::try_from(body)?.to_le_bytes());
    let mut rng = fastrand::Rng::with_seed(7);
    let text: Vec<u8> = (0..4096).map(|_| rng.u8(b' '..b'~')).collect();
    inner.extend(text.iter().cycle().take(body));
    let mut blob = HEAD.to_vec();
    for buffer in inner.chunks(31_680) {
        blob.extend_from_slice(&2_u32.to_le_bytes());
        blob.extend_from_slice(&u32::try_from(buffer.len())?.to_le_bytes());
        blob.extend_from_slice(buffer);
    }
    Ok(blob)
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["speed"] => speed(),
        ["memory", form, count, mib] => memory(form, count.parse()?, mib.parse()?).await,
        _ => bail!("usage: blobs speed | memory FORM COUNT MIB"),
    }
}

fn speed() -> anyhow::Result<()> {
    let blob = item(150)?;
    let mut out = vec![0; CHUNK / 3 * 4];
    let mut encode = |chunk: &[u8]| black_box(BASE64_STANDARD.encode_slice(chunk, &mut out).is_ok());
    let show = |name: &str, step: &mut dyn FnMut() -> anyhow::Result<()>| -> anyhow::Result<()> {
        let mut best = Duration::MAX;
        for _ in 0..5 {
            let start = Instant::now();
            step()?;
            best = best.min(start.elapsed());
        }
        let gib = f64::from(u32::try_from(blob.len() >> 10)?) / f64::from(1 << 20);
        println!("{name:<40} {:>6.2} GiB/s", gib / best.as_secs_f64());
        Ok(())
    };
    show("base64 0.23 alone", &mut || {
        for chunk in blob.chunks(CHUNK) {
            encode(chunk);
        }
        Ok(())
    })?;
    show("SHA-256 alone", &mut || {
        let mut digest = Context::new(&SHA256);
        blob.chunks(CHUNK).for_each(|chunk| digest.update(chunk));
        black_box(digest.finish());
        Ok(())
    })?;
    show("preflight alone", &mut || {
        let mut preflight = Preflight::new(PreflightMode::Framing);
        blob.chunks(CHUNK).try_for_each(|chunk| preflight.feed(chunk))?;
        black_box(preflight.finish()?);
        Ok(())
    })?;
    show("digest + preflight + base64", &mut || {
        let (mut digest, mut preflight) = (Context::new(&SHA256), Preflight::new(PreflightMode::Framing));
        for chunk in blob.chunks(CHUNK) {
            digest.update(chunk);
            preflight.feed(chunk)?;
            encode(chunk);
        }
        black_box((digest.finish(), preflight.finish()?));
        Ok(())
    })?;
    let text = BASE64_STANDARD.encode(&blob);
    show("base64 text decoded (our decoder)", &mut || {
        let (mut decoder, mut out) = (restore_worker::fts::base64_text::Decoder::default(), Vec::new());
        for chunk in text.as_bytes().chunks(64 * 1024) {
            out.clear();
            decoder.feed(chunk, &mut out)?;
        }
        Ok(black_box(decoder.finish(&mut out))?)
    })?;
    let lines: Vec<u8> = text.as_bytes().chunks(76).flat_map(|line| [line, b"\r\n"].concat()).collect();
    show("the same in lines of 76", &mut || {
        let (mut decoder, mut out) = (restore_worker::fts::base64_text::Decoder::default(), Vec::new());
        for chunk in lines.chunks(64 * 1024) {
            out.clear();
            decoder.feed(chunk, &mut out)?;
        }
        Ok(black_box(decoder.finish(&mut out))?)
    })
}

async fn memory(form: &str, count: usize, mib: usize) -> anyhow::Result<()> {
    let (blob, size) = stored(form, mib).await?;
    let path = std::env::temp_dir().join(format!("restore-worker-blobs-{}", std::process::id()));
    tokio::fs::write(&path, &blob).await?;
    drop(blob);
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let endpoint = format!("http://{}", listener.local_addr()?);
    let mut tasks = JoinSet::new();
    let file = path.clone();
    tasks.spawn(async move {
        let mut answers = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            answers.spawn(answer(stream, file.clone()));
        }
    });
    let metrics = Arc::new(Metrics::register("0", "example")?);
    let store = BlobStore::connect(settings(endpoint), metrics).await.map_err(|problem| anyhow!(problem))?;
    // The peak so far is that of making the item: begin to count here.
    tokio::fs::write("/proc/self/clear_refs", "5").await.context("reset the peak")?;
    let idle = kib("VmHWM:").await?;
    let mut jobs = JoinSet::new();
    for number in 0..count {
        let (store, job) = (store.clone(), job(form, size.filter(|_| number % 2 == 0))?);
        jobs.spawn(async move {
            let (_, mut chunks) = store.open(&job).await?.into_parts();
            let mut bytes = 0;
            while let Some(chunk) = chunks.next().await {
                bytes += chunk?.len();
                // As slow as an upload: 100 MiB/s.
                if bytes % (1 << 20) < CHUNK {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }
            anyhow::Ok(bytes)
        });
    }
    let (mut bytes, mut refused) = (0, None);
    while let Some(read) = jobs.join_next().await {
        match read? {
            Ok(read) => bytes += read,
            Err(error) => refused = Some(error.to_string()),
        }
    }
    let peak = kib("VmHWM:").await?;
    tokio::fs::remove_file(path).await?;
    let above = peak - idle;
    println!(
        "{form}: {count} items, {} MiB read; idle {} MiB, peak {} MiB, above idle {} MiB{}",
        bytes >> 20,
        idle >> 10,
        peak >> 10,
        above >> 10,
        refused.map(|why| format!("; refused: {why}")).unwrap_or_default()
    );
    Ok(())
}

async fn stored(form: &str, mib: usize) -> anyhow::Result<(Vec<u8>, Option<u64>)> {
    let blob = item(mib)?;
    let (size, mut out) = (Some(blob.len() as u64), Vec::new());
    match form {
        "raw" => out = blob,
        "base64" => out = BASE64_STANDARD.encode(&blob).into_bytes(),
        "gzip" | "bomb" => {
            GzipEncoder::with_quality(&*blob, Level::Fastest).read_to_end(&mut out).await?;
        }
        "zstd" => {
            let window = [CParameter::window_log(23)];

            ZstdEncoder::with_quality_and_params(&*blob, Level::Fastest, &window)
                .read_to_end(&mut out)
                .await?;
        }
        _ => bail!("no such form: {form}"),
    }
    Ok((out, size))
}

async fn answer(mut stream: TcpStream, file: std::path::PathBuf) -> anyhow::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let mut file = tokio::fs::File::open(file).await?;
    let length = file.metadata().await?.len();
    let head =
        format!("HTTP/1.1 200 OK\r\nETag: \"one\"\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    let mut chunk = Bytes::from(vec![0; 16 * 1024]).try_into_mut().map_err(|_| anyhow!("shared"))?;
    loop {
        let read = file.read(&mut chunk).await?;
        if read == 0 {
            return Ok(());
        }
        stream.write_all(&chunk[..read]).await?;
    }
}

async fn kib(name: &str) -> anyhow::Result<u64> {
    let status = tokio::fs::read_to_string("/proc/self/status").await?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)).context("no such line")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse()?)
}

fn settings(endpoint: String) -> Settings {
    Settings {
        client: s3_client::Settings {
            endpoint: Some(endpoint),
            region: Some("us-east-1".into()),
            path_style: true,
            ca_pem: None,
            connect_timeout: Duration::from_secs(5),
            read_timeout: Duration::from_secs(30),
        },
        allowed_buckets: vec!["b".into()],
        allowed_prefix: None,
        ledger: None,
        max_blob: 200 << 20,
        max_window: 8 << 20,
        min_download_rate: 64 << 10,
        retain: 256 << 10,
        preflight: PreflightMode::Framing,
    }
}

fn job(form: &str, size: Option<u64>) -> anyhow::Result<RestoreJob> {
    let compression = match form {
        "gzip" | "bomb" => Compression::Gzip,
        "zstd" => Compression::Zstd,
        _ => Compression::None,
    };
    let encoding = if form == "base64" { Encoding::Base64 } else { Encoding::Raw };
    let size = size.filter(|_| form != "raw" && form != "bomb");
    Ok(RestoreJob {
        id: JobId::parse("job")?,
        restore_id: None,
        requested_by: None,
        tenant: TenantId::parse("example.com")?,
        mailbox: MailboxId::parse("anna")?,
        folder: FolderId::parse("folder")?,
        mode: ImportMode::Create,
        blob: BlobRef {
            bucket: "b".into(),
            key: "k".into(),
            version_id: None,
            range: None,
            encoding,
            compression,
            size,
            sha256: None,
        },
        graph_version: None,
        not_after: None,
        metadata: None,
    })
}
