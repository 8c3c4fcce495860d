//! The store against a scripted server: every answer, every way in which a body can go wrong.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use async_compression::tokio::bufread::{GzipEncoder, ZstdEncoder};
use aws_sdk_s3::config::Credentials;
use base64::prelude::{BASE64_STANDARD, Engine as _};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use super::*;
use crate::{domain::ByteRange, fts::test_writer::Writer};

/// What the server does with one request.
#[derive(Clone, Debug)]
enum Answer {
    /// Status, further header lines, body.
    Whole(u16, String, Vec<u8>),
    /// Says a length and ends after this many bytes.
    Short(Vec<u8>, usize),
    /// Says a length, sends this many bytes and then nothing more.
    Stall(Vec<u8>, usize),
    /// Never answers.
    Silence,
}

fn error(status: u16, code: &str) -> Answer {
    Answer::Whole(
        status,
        String::new(),
        format!("<Error><Code>{code}</Code><Message>secret text</Message></Error>").into(),
    )
}

fn object(bytes: &[u8]) -> Answer {
    Answer::Whole(200, "ETag: \"one\"\r\n".into(), bytes.to_vec())
}

/// A server that gives each request the next answer of its script, and keeps the requests' heads.
struct Server {
    endpoint: String,
    heads: Arc<Mutex<Vec<String>>>,
    _tasks: JoinSet<()>,
}

impl Server {
    async fn new(script: Vec<Answer>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
        let heads = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = JoinSet::new();
        tasks.spawn(serve(listener, script.into(), Arc::clone(&heads)));
        Self { endpoint, heads, _tasks: tasks }
    }

    fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn store(&self, change: impl FnOnce(&mut Settings)) -> BlobStore {
        let mut settings = testing::settings(&self.endpoint);
        settings.client.read_timeout = Duration::from_millis(300);
        change(&mut settings);
        let keys = Credentials::new("key", "secret", None, None, "test");
        let client = s3_client::connect_with(&settings.client, Some(keys)).await.expect("a client");
        let metrics = Arc::new(Metrics::register("0", "test").expect("registers"));
        BlobStore { client, settings: Arc::new(settings), metrics }
    }
}

async fn serve(listener: TcpListener, mut script: VecDeque<Answer>, heads: Arc<Mutex<Vec<String>>>) {
    let mut silent = Vec::new();
    while let Ok((mut stream, _)) = listener.accept().await {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match stream.read_u8().await {
                Ok(byte) => head.push(byte),
                Err(_) => break,
            }
        }
        heads
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(String::from_utf8_lossy(&head).into_owned());
        let answer = script.pop_front().unwrap_or_else(|| error(500, "ScriptIsOver"));
        if answer_with(&mut stream, answer).await {
            silent.push(stream);
        }
    }
}

/// Answers; whether the connection is to be kept open.
async fn answer_with(stream: &mut TcpStream, answer: Answer) -> bool {
    let (status, headers, body, sent, keep) = match answer {
        Answer::Whole(status, headers, body) => (status, headers, body.clone(), body.len(), false),
        Answer::Short(body, sent) => (200, String::new(), body, sent, false),
        Answer::Stall(body, sent) => (200, String::new(), body, sent, true),
        Answer::Silence => return true,
    };
    let head = format!(
        "HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: {}\r\n{headers}\r\n",
        body.len()
    );
    // A client that has seen enough may be gone.
    stream.write_all(head.as_bytes()).await.ok();
    stream.write_all(&body[..sent]).await.ok();
    keep
}

fn mail(body: usize) -> Vec<u8> {
    Writer::mail("x").binary(0x1013, &vec![5; body]).binary(0x300B, &[9; 16]).blob()
}

async fn read(blob: Blob) -> Result<(Vec<u8>, Option<Facts>), RestoreError> {
    let (facts, mut chunks) = blob.into_parts();
    let mut out = Vec::new();
    while let Some(chunk) = chunks.next().await {
        out.extend_from_slice(&chunk?);
    }
    Ok((out, facts.get()))
}

async fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    GzipEncoder::new(bytes).read_to_end(&mut out).await.expect("into memory");
    out
}

async fn zstd(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    ZstdEncoder::new(bytes).read_to_end(&mut out).await.expect("into memory");
    out
}

fn job(change: impl FnOnce(&mut BlobRef)) -> RestoreJob {
    let mut job = testing::job("b", "k");
    change(&mut job.blob);
    job
}

#[tokio::test]
async fn a_small_blob_is_kept_and_a_large_one_streams() {
    for (body, kept) in [(10, true), (1_000_000, false)] {
        let mail = mail(body);
        let server = Server::new(vec![object(&mail)]).await;
        let store = server.store(|_| ()).await;
        let blob = store.open(&job(|_| ())).await.expect("opens");
        assert_eq!((blob.length(), blob.etag()), (mail.len() as u64, Some("\"one\"")));
        let again = blob.retained();
        assert_eq!(again.is_some(), kept);
        let (bytes, facts) = read(blob).await.expect("reads");
        assert!(bytes == mail);
        assert_eq!(facts.and_then(|facts| facts.identity.search_key), Some(vec![9; 16]));
        assert_eq!(store.metrics.bytes.with_label_values(&["fetched"]).get(), mail.len() as u64);
        if let Some(again) = again {
            assert!(read(again).await.is_ok_and(|(bytes, facts)| bytes == mail && facts.is_some()));
        }
        assert_eq!(server.heads().len(), 1);
    }
}

#[tokio::test]
async fn a_length_that_nobody_told_takes_a_second_read_of_the_same_object() {
    let mail = mail(1_000_000);
    let lines: Vec<u8> = BASE64_STANDARD
        .encode(&mail)
        .as_bytes()
        .chunks(76)
        .flat_map(|line| [line, b"\r\n"].concat())
        .collect();
    let gzip = gzip(&mail).await;
    let zstd = zstd(&mail).await;
    for (encoding, compression, stored) in [
        (Encoding::Base64, Compression::None, lines),
        (Encoding::Raw, Compression::Gzip, gzip),
        (Encoding::Raw, Compression::Zstd, zstd),
    ] {
        let form = |blob: &mut BlobRef| (blob.encoding, blob.compression) = (encoding, compression);
        let server = Server::new(vec![object(&stored), object(&stored)]).await;
        let blob = server.store(|_| ()).await.open(&job(form)).await.expect("opens");
        assert_eq!(blob.length(), mail.len() as u64, "{compression:?}");
        assert!(read(blob).await.is_ok_and(|(bytes, _)| bytes == mail));
        assert!(server.heads()[1].contains("if-match: \"one\""), "{}", server.heads()[1]);

        let told = |blob: &mut BlobRef| {
            form(blob);
            blob.size = Some(mail.len() as u64);
        };
        let server = Server::new(vec![object(&stored)]).await;
        let blob = server.store(|_| ()).await.open(&job(told)).await.expect("opens");
        assert!(read(blob).await.is_ok_and(|(bytes, _)| bytes == mail));
        assert_eq!(server.heads().len(), 1, "with a size, once is enough");
    }
}

#[tokio::test]
async fn an_object_that_changes_between_two_reads_is_passing_trouble() {
    let (one, two) = (gzip(&mail(1_000_000)).await, gzip(&mail(1_000_001)).await);
    let version = "ETag: \"two\"\r\n".to_owned();
    for second in [error(412, "PreconditionFailed"), Answer::Whole(200, version, one.clone()), object(&two)] {
        let server = Server::new(vec![object(&one), second]).await;
        let opened = server.store(|_| ()).await.open(&job(|blob| blob.compression = Compression::Gzip)).await;
        let error = match opened {
            Ok(blob) => read(blob).await.expect_err("changed"),
            Err(error) => error,
        };
        assert_eq!(error.message, "the object changed between two reads");
        assert!(matches!(error.fault, Fault::Passing { dependency: Dependency::Storage, .. }));
    }
}

#[tokio::test]
async fn a_version_once_read_is_asked_for_again() {
    let stored = gzip(&mail(1_000_000)).await;
    let answer = Answer::Whole(200, "ETag: \"one\"\r\nx-amz-version-id: v7\r\n".into(), stored);
    let server = Server::new(vec![answer.clone(), answer]).await;
    let blob = server.store(|_| ()).await.open(&job(|blob| blob.compression = Compression::Gzip)).await;
    assert!(read(blob.expect("opens")).await.is_ok());
    assert!(server.heads()[1].contains("versionId=v7"), "{}", server.heads()[1]);
}

#[tokio::test]
async fn a_range_and_a_version_are_asked_for() {
    let mail = mail(100);
    let length = mail.len() as u64;
    let answer = Answer::Whole(206, format!("Content-Range: bytes 10-{}/9999\r\n", 9 + length), mail.clone());
    let server = Server::new(vec![answer]).await;
    let job = job(|blob| {
        blob.range = Some(ByteRange { offset: 10, length });
        blob.version_id = Some("v1".into());
    });
    let blob = server.store(|_| ()).await.open(&job).await.expect("opens");
    assert!(read(blob).await.is_ok_and(|(bytes, _)| bytes == mail));
    let head = &server.heads()[0];
    assert!(
        head.contains(&format!("range: bytes=10-{}", 9 + length)) && head.contains("versionId=v1"),
        "{head}"
    );
}

#[tokio::test]
async fn whose_trouble_each_answer_is() {
    let mail = mail(100);
    let busy =
        Answer::Whole(503, "Retry-After: 7\r\n".into(), b"<Error><Code>SlowDown</Code></Error>".to_vec());
    let cases: Vec<(&str, Answer, &str, &str)> = vec![
        ("no such key", error(404, "NoSuchKey"), "blob_not_found", "Job"),
        ("no such bucket", error(404, "NoSuchBucket"), "blob_forbidden", "Job"),
        ("a delete marker", error(405, "MethodNotAllowed"), "blob_not_found", "Job"),
        ("forbidden", error(403, "AccessDenied"), "blob_forbidden", "Job"),
        ("archived", error(403, "InvalidObjectState"), "blob_archived", "Job"),
        ("beyond the end", error(416, "InvalidRange"), "blob_corrupt", "Job"),
        ("another region", error(400, "AuthorizationHeaderMalformed"), "blob_forbidden", "Job"),
        ("moved", error(301, "PermanentRedirect"), "blob_forbidden", "Job"),
        ("busy", busy, "storage_unavailable", "Passing { dependency: Storage, retry_after: Some(7s) }"),
        (
            "in trouble",
            error(500, "InternalError"),
            "storage_unavailable",
            "Passing { dependency: Storage, retry_after: None }",
        ),
        (
            "a page of a proxy",
            Answer::Whole(502, String::new(), b"<html>".to_vec()),
            "storage_unavailable",
            "Passing { dependency: Storage, retry_after: None }",
        ),
        (
            "silence",
            Answer::Silence,
            "storage_unavailable",
            "Passing { dependency: Storage, retry_after: None }",
        ),
        (
            "a short body",
            Answer::Short(mail.clone(), 100),
            "storage_unavailable",
            "Passing { dependency: Storage, retry_after: None }",
        ),
        (
            "a body that stands still",
            Answer::Stall(mail.clone(), 100),
            "storage_unavailable",
            "Passing { dependency: Storage, retry_after: None }",
        ),
        ("no FTS", object(b"<html>hello, this is a page</html>"), "blob_not_fts", "Job"),
    ];
    for (name, answer, reason, fault) in cases {
        let server = Server::new(vec![answer]).await;
        let store = server.store(|_| ()).await;
        let job = job(|_| ());
        let error = tokio::time::timeout(Duration::from_secs(9), store.open(&job));
        let error = error.await.expect("every wait has a limit").expect_err(name);
        assert_eq!(
            (error.reason.as_str(), format!("{:?}", error.fault)),
            (reason, fault.to_owned()),
            "{name}: {error}"
        );
        assert!(!error.message.contains("secret"), "{error}");
        assert_eq!(server.heads().len(), 1, "{name}: asked again");
    }
}

#[tokio::test]
async fn refused_keys_are_ours_unless_only_this_object_brings_them_about() {
    for code in ["InvalidAccessKeyId", "SignatureDoesNotMatch", "RequestTimeTooSkewed"] {
        let server = Server::new(vec![error(403, code), error(403, code)]).await;
        let refused = server.store(|_| ()).await.open(&job(|_| ())).await.expect_err("refused");
        assert_eq!(refused.fault, Fault::Ours { scope: OursScope::Everything }, "{code}");
        assert_eq!(refused.reason, Reason::StorageUnavailable);

        let server = Server::new(vec![error(403, code), error(403, "AccessDenied")]).await;
        let refused = server.store(|_| ()).await.open(&job(|_| ())).await.expect_err("refused");
        assert_eq!((refused.fault, refused.reason), (Fault::Job, Reason::BlobForbidden), "{code}");
    }
}

#[tokio::test]
async fn a_probe_needs_no_bucket_and_no_permission() {
    for (bucket, answer, fine) in [
        (None, Answer::Whole(200, String::new(), b"<ListAllMyBucketsResult/>".to_vec()), true),
        (None, error(403, "AccessDenied"), true),
        (Some("b"), error(404, "NoSuchKey"), true),
        (Some("b"), error(403, "AccessDenied"), true),
        (Some("b"), error(403, "InvalidAccessKeyId"), false),
        (None, error(403, "SignatureDoesNotMatch"), false),
        (Some("b"), error(503, "SlowDown"), false),
        (None, Answer::Silence, false),
    ] {
        let server = Server::new(vec![answer.clone()]).await;
        let store = server
            .store(|settings| settings.allowed_buckets = bucket.map(str::to_owned).into_iter().collect());
        let probed = store.await.probe().await;
        assert_eq!(probed.is_ok(), fine, "{answer:?}: {probed:?}");
    }
    let mut settings = testing::settings("http://127.0.0.1:1");
    settings.client.connect_timeout = Duration::from_millis(200);
    let store = Server::new(vec![]).await.store(|known| *known = settings).await;
    assert!(matches!(store.probe().await.map_err(|error| error.fault), Err(Fault::Passing { .. })));
}

#[tokio::test]
async fn limits_are_kept_before_and_while_reading() {
    let mail = mail(1_000_000);
    let bomb = gzip(&vec![0; 50 << 20]).await;
    let gzipped = |blob: &mut BlobRef| blob.compression = Compression::Gzip;
    let sized = |size| move |blob: &mut BlobRef| blob.size = Some(size);
    for (name, stored, job, reason) in [
        ("larger than max_blob", vec![0; 3 << 20], job(|_| ()), "blob_too_large"),
        ("a bomb", bomb, job(gzipped), "blob_too_large"),
        ("another size than told", mail.clone(), job(sized(5)), "blob_corrupt"),
        (
            "a size beyond max_blob",
            mail.clone(),
            job(|blob| {
                gzipped(blob);
                blob.size = Some(3 << 20);
            }),
            "blob_too_large",
        ),
        ("another digest", mail.clone(), job(|blob| blob.sha256 = Some([1; 32])), "blob_corrupt"),
    ] {
        let server = Server::new(vec![object(&stored)]).await;
        let store = server
            .store(|settings| (settings.max_blob, settings.preflight) = (2 << 20, PreflightMode::Off))
            .await;
        let error = match store.open(&job).await {
            Ok(blob) => read(blob).await.expect_err(name),
            Err(error) => error,
        };
        assert_eq!((error.reason.as_str(), error.fault), (reason, Fault::Job), "{name}: {error}");
    }
}

#[tokio::test]
async fn a_body_that_breaks_while_it_streams_is_passing_trouble() {
    let mail = mail(1_000_000);
    for answer in [Answer::Short(mail.clone(), 700_000), Answer::Stall(mail.clone(), 700_000)] {
        let server = Server::new(vec![answer]).await;
        let blob = server.store(|_| ()).await.open(&job(|_| ())).await.expect("opens");
        let error = tokio::time::timeout(Duration::from_secs(9), read(blob))
            .await
            .expect("a limit")
            .expect_err("breaks");
        assert!(matches!(error.fault, Fault::Passing { .. }), "{error}");
        assert!(error.message.contains("after 700000 of"), "{error}");
    }
}

#[tokio::test]
async fn identify_reads_to_the_end() {
    let mail = mail(1_000_000);
    let server = Server::new(vec![object(&mail)]).await;
    let facts = server.store(|_| ()).await.identify(&job(|_| ())).await.expect("identified");
    assert_eq!((facts.bytes, facts.identity.search_key), (mail.len() as u64, Some(vec![9; 16])));
}

#[tokio::test]
async fn a_bucket_that_is_no_bucket_is_the_jobs_trouble() {
    let server = Server::new(vec![]).await;
    for (bucket, key) in [("b/../c", "k"), ("b?x=1", "k"), (" ", "k"), ("", "k"), ("b", "")] {
        let mut job = job(|_| ());
        (job.blob.bucket, job.blob.key) = (bucket.into(), key.into());
        let error = server.store(|_| ()).await.open(&job).await.expect_err("refused");
        assert_eq!(error.fault, Fault::Job, "{bucket:?} {key:?}: {error}");
    }
    assert!(server.heads().is_empty(), "nothing was asked for");
}
