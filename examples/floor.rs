//! The floor that `make bench` holds the worker against: GETs an object, digests and encodes it, POSTs it, with the worker's own
//! clients and allocator, and does nothing else. No ledger, no broker, no checks, no looking at answers beyond their status.
//!
//! `floor ENDPOINT BUCKET KEY COUNT CONCURRENCY CA_FILE STORAGE_CA_FILE TOKEN_FILE GRAPH MAILBOX...`. Opens a session
//! for each mailbox first. Prints seconds and CPU seconds (user and system) of COUNT items.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use anyhow::{Context as _, anyhow, ensure};
use aws_lc_rs::digest::{self, SHA256};
use aws_sdk_s3::primitives::ByteStream;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use restore_worker::s3_client;
use tokio::{sync::Semaphore, task::JoinSet, time::Instant};

/// The worker's own.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// What the sandbox's folder is called, and the request around an item.
const HEAD: &str = "{\"FolderId\":\"SW5ib3g=\",\"Mode\":\"create\",\"Data\":\"";
const TAIL: &str = "\"}";
/// Before anything is measured: connections.
const WARM_UP: usize = 8;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [endpoint, bucket, key, count, concurrency, ca_file, storage_ca, token_file, graph, mailboxes @ ..] =
        &*args
    else {
        anyhow::bail!(
            "usage: floor ENDPOINT BUCKET KEY COUNT CONCURRENCY CA_FILE STORAGE_CA_FILE TOKEN_FILE GRAPH MAILBOX..."
        );
    };
    let settings = s3_client::Settings {
        endpoint: Some(endpoint.clone()),
        region: Some("us-east-1".into()),
        path_style: true,
        ca_pem: Some(std::fs::read(storage_ca)?),
        connect_timeout: Duration::from_secs(5),
        read_timeout: Duration::from_secs(30),
    };
    let ca = reqwest::Certificate::from_pem(&std::fs::read(ca_file)?)?;
    let http = reqwest::Client::builder()
        .http1_only()
        .tcp_nodelay(true)
        .pool_max_idle_per_host(64)
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .tls_certs_merge([ca])
        .build()?;
    let token = std::fs::read_to_string(token_file)?;
    let mut urls = Vec::new();
    for mailbox in mailboxes {
        let url = format!("{graph}/v1.0/admin/exchange/mailboxes/{mailbox}/createImportSession");
        let request = http.post(url).bearer_auth(&token).header("content-length", "0");
        let answer = request.send().await.map_err(reqwest::Error::without_url)?;
        let session: serde_json::Value = serde_json::from_slice(&answer.bytes().await?)?;
        urls.push(session["importUrl"].as_str().context("a session")?.to_owned());
    }
    ensure!(!urls.is_empty(), "no mailbox");
    let floor = Arc::new(Floor {
        s3: s3_client::connect(&settings).await.map_err(|error| anyhow!(error))?,
        http,
        bucket: bucket.clone(),
        key: key.clone(),
        urls,
    });
    let (count, concurrency): (usize, usize) = (count.parse()?, concurrency.parse()?);
    floor.clone().run(WARM_UP.min(count), concurrency).await?;
    let (began, cpu) = (Instant::now(), cpu()?);
    floor.run(count, concurrency).await?;
    println!("{} {}", began.elapsed().as_secs_f64(), self::cpu()? - cpu);
    Ok(())
}

/// CPU seconds of this process so far. Source: `proc(5)`, `/proc/self/stat`, fields 14 and 15, in hundredths.
fn cpu() -> anyhow::Result<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> =
        stat.rsplit_once(')').context("a name in brackets")?.1.split_whitespace().collect();
    let ticks = |n: usize| fields.get(n).and_then(|text| text.parse::<f64>().ok()).context("a number");
    Ok((ticks(11)? + ticks(12)?) / 100.0)
}

struct Floor {
    s3: s3_client::Client,
    http: reqwest::Client,
    bucket: String,
    key: String,
    urls: Vec<String>,
}

impl Floor {
    async fn run(self: Arc<Self>, count: usize, concurrency: usize) -> anyhow::Result<()> {
        let places = Arc::new(Semaphore::new(concurrency));
        let mut items = JoinSet::new();
        for n in 0..count {
            let (floor, place) = (Arc::clone(&self), Arc::clone(&places).acquire_owned().await?);
            items.spawn(async move {
                let done = floor.item(n).await;
                drop(place);
                done
            });
            while let Some(done) = items.try_join_next() {
                done??;
            }
        }
        while let Some(done) = items.join_next().await {
            done??;
        }
        Ok(())
    }

    async fn item(&self, n: usize) -> anyhow::Result<()> {
        let object = self.s3.get_object().bucket(&self.bucket).key(&self.key).send().await?;
        let length = u64::try_from(object.content_length().context("a length")?)?;
        let body = Encoded::new(object.body, length);
        let answer =
            self.http.post(&self.urls[n % self.urls.len()]).header("content-type", "application/json");
        let answer =
            answer.body(reqwest::Body::wrap(body)).send().await.map_err(reqwest::Error::without_url)?;
        let status = answer.status();
        answer.bytes().await.map_err(reqwest::Error::without_url)?;
        ensure!(status.is_success(), "the import was answered {status}");
        Ok(())
    }
}

/// The request around base64 of a stream, digested on the way.
struct Encoded {
    blob: ByteStream,
    left: u64,
    carry: BytesMut,
    digest: Option<digest::Context>,
    head: Option<Bytes>,
}

impl Encoded {
    fn new(blob: ByteStream, length: u64) -> Self {
        let head = Some(Bytes::from_static(HEAD.as_bytes()));
        let left = length.div_ceil(3) * 4 + u64::try_from(HEAD.len() + TAIL.len()).unwrap_or_default();
        Self { blob, left, carry: BytesMut::new(), digest: Some(digest::Context::new(&SHA256)), head }
    }

    fn frame(&mut self, bytes: Bytes) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        self.left = self.left.saturating_sub(bytes.len() as u64);
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }
}

impl Body for Encoded {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        if let Some(head) = self.head.take() {
            return self.frame(head);
        }
        loop {
            let next = std::task::ready!(Pin::new(&mut self.blob).poll_next(context));
            let text = match next {
                Some(Ok(chunk)) => {
                    if let Some(digest) = &mut self.digest {
                        digest.update(&chunk);
                    }
                    self.carry.extend_from_slice(&chunk);
                    let whole = self.carry.len() / 3 * 3;
                    let taken = self.carry.split_to(whole);
                    STANDARD.encode(taken)
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(std::io::Error::other(error)))),
                None => match self.digest.take() {
                    Some(digest) => {
                        std::hint::black_box(digest.finish());
                        STANDARD.encode(&self.carry) + TAIL
                    }
                    None => return Poll::Ready(None),
                },
            };
            if !text.is_empty() {
                return self.frame(text.into());
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
