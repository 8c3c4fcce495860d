//! The SDK's way and ours beside each other, against a scripted server.

use std::{
    collections::{BTreeMap, VecDeque},
    net::Ipv4Addr,
    sync::Mutex,
    time::Duration,
};

use aws_sdk_s3::config::Credentials;
use aws_smithy_http_client::tls;
use aws_smithy_runtime_api::client::dns::{DnsFuture, ResolveDns};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use super::*;
use crate::s3_client::{Settings, connect_with};

/// What the server does with one request.
#[derive(Clone, Debug)]
enum Answer {
    /// These bytes, then the end.
    Raw(Vec<u8>),
    /// These bytes, then nothing more.
    Stall(Vec<u8>),
}

fn answer(status: u16, headers: &str, body: &str) -> Answer {
    let length = body.len();
    Answer::Raw(
        format!(
            "HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
        )
        .into(),
    )
}

fn error(status: u16, code: &str) -> Answer {
    answer(status, "", &format!("<Error><Code>{code}</Code><Message>some text</Message></Error>"))
}

fn stands() -> Answer {
    answer(200, "ETag: \"one\"\r\n", "")
}

/// A request: its first line, its fields, its body.
type Seen = (String, BTreeMap<String, String>, Vec<u8>);

struct Server {
    port: u16,
    script: Arc<Mutex<VecDeque<Answer>>>,
    seen: Arc<Mutex<Vec<Seen>>>,
    tasks: JoinSet<()>,
}

impl Server {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let (script, seen) = (Arc::<Mutex<VecDeque<_>>>::default(), Arc::<Mutex<Vec<_>>>::default());
        let mut tasks = JoinSet::new();
        tasks.spawn(serve(listener, Arc::clone(&script), Arc::clone(&seen)));
        Self { port, script, seen, tasks }
    }

    fn will(&self, answer: Answer) {
        self.script.lock().expect("the script").push_back(answer);
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().expect("what was seen").clone()
    }

    async fn puts(&self, path_style: bool, bucket: &str) -> Puts {
        let settings = Settings {
            endpoint: Some(format!("http://localhost:{}", self.port)),
            region: Some("eu-test-1".into()),
            path_style,
            ca_pem: None,
            connect_timeout: Duration::from_secs(2),
            read_timeout: Duration::from_millis(400),
        };
        let keys = Credentials::new("key", "secret", Some("token".into()), None, "test");
        let client = connect_with(&settings, Some(keys)).await.expect("a client");
        let near = aws_smithy_http_client::Builder::new()
            .tls_provider(tls::Provider::Rustls(tls::rustls_provider::CryptoMode::AwsLc))
            .build_with_resolver(Here);
        Puts::new(Client::from_conf(client.config().to_builder().http_client(near).build()), bucket.into())
    }
}

/// Every name is this machine's: not every resolver knows the names below `localhost`.
#[derive(Clone, Debug)]
struct Here;

impl ResolveDns for Here {
    fn resolve_dns<'a>(&'a self, _: &'a str) -> DnsFuture<'a> {
        DnsFuture::ready(Ok(vec![Ipv4Addr::LOCALHOST.into()]))
    }
}

async fn serve(listener: TcpListener, script: Arc<Mutex<VecDeque<Answer>>>, seen: Arc<Mutex<Vec<Seen>>>) {
    let mut silent = Vec::new();
    while let Ok((mut stream, _)) = listener.accept().await {
        let Some(request) = receive(&mut stream).await else { continue };
        seen.lock().expect("what was seen").push(request);
        let answer = script.lock().expect("the script").pop_front();
        match answer.unwrap_or_else(|| error(500, "ScriptIsOver")) {
            Answer::Raw(bytes) => {
                stream.write_all(&bytes).await.ok();
            }
            Answer::Stall(bytes) => {
                stream.write_all(&bytes).await.ok();
                silent.push(stream);
            }
        }
    }
}

async fn receive(stream: &mut TcpStream) -> Option<Seen> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).ok()?;
    let mut lines = head.trim_end().lines();
    let first = lines.next()?.to_owned();
    let field = |line: &str| line.split_once(": ").map(|(name, value)| (name.to_owned(), value.to_owned()));
    let fields: BTreeMap<_, _> = lines.filter_map(field).collect();
    let mut body = vec![0; fields.get("content-length")?.parse().ok()?];
    stream.read_exact(&mut body).await.ok()?;
    Some((first, fields, body))
}

fn record(over: Option<&'static str>) -> Put<'static> {
    Put {
        key: "a pre:fix/jobs/0f/j-1%2Fä~+.json",
        content_type: "application/json",
        body: b"{}".to_vec(),
        over,
    }
}

async fn shown(server: &Server, path_style: bool) -> (Puts, Arc<Way>) {
    let puts = server.puts(path_style, "ledger").await;
    server.will(stands());
    puts.put(record(None)).await.expect("stands");
    let way = puts.known().expect("the SDK has shown the way");
    (puts, way)
}

#[tokio::test]
async fn both_ways_say_the_same_of_every_answer() {
    let half = "HTTP/1.1 200 X\r\nContent-Length: 50\r\n";
    let answers = [
        stands(),
        answer(200, "", ""),
        answer(204, "ETag: two\r\n", ""),
        error(412, "PreconditionFailed"),
        error(409, "ConditionalRequestConflict"),
        error(404, "NoSuchBucket"),
        error(404, "NoSuchKey"),
        error(403, "AccessDenied"),
        error(403, "SignatureDoesNotMatch"),
        error(403, "RequestTimeTooSkewed"),
        error(403, "InvalidAccessKeyId"),
        error(401, ""),
        error(400, "ExpiredToken"),
        error(400, "InvalidRequest"),
        error(400, "EncryptionTypeMismatch"),
        error(301, "PermanentRedirect"),
        answer(307, "Location: http://localhost:1/\r\n", ""),
        answer(304, "", ""),
        error(500, "InternalError"),
        answer(503, "Retry-After: 7\r\n", "<Error><Code>SlowDown</Code></Error>"),
        answer(429, "Retry-After: 3\r\n", ""),
        answer(500, "", "<Error><Code>Broken</Co"),
        answer(502, "", "<html>bad gateway</html>"),
        answer(403, "", ""),
        answer(412, "", "no XML at all \u{1}"),
        Answer::Raw(b"HTTP/1.1 200 X\r\nETag: \"\xff\xfe\"\r\nContent-Length: 0\r\n\r\n".to_vec()),
        Answer::Raw(Vec::new()),
        Answer::Raw(b"SSH-2.0-OpenSSH\r\n".to_vec()),
        Answer::Raw(half.into()),
        Answer::Raw(format!("{half}\r\nshort").into()),
        Answer::Raw(b"HTTP/1.1 500 X\r\nContent-Length: 50\r\n\r\n<Error>".to_vec()),
        Answer::Stall(Vec::new()),
        Answer::Stall(half.into()),
    ];
    let server = Server::start().await;
    let (puts, way) = shown(&server, true).await;
    for scripted in answers {
        for over in [None, Some("\"v1\"")] {
            server.will(scripted.clone());
            let theirs = puts.by_the_sdk(record(over)).await;
            server.will(scripted.clone());
            let ours = way.put(record(over)).await;
            assert_eq!(ours, theirs, "{scripted:?}");
        }
    }
    assert!(server.script.lock().expect("the script").is_empty());
}

#[tokio::test]
async fn both_ways_say_the_same_of_a_body_that_stands_still_and_of_nobody_at_home() {
    let mut server = Server::start().await;
    let (puts, way) = shown(&server, true).await;
    let stalled = Answer::Stall(b"HTTP/1.1 200 X\r\nContent-Length: 50\r\n\r\nshort".to_vec());
    server.will(stalled.clone());
    let theirs = puts.by_the_sdk(record(None)).await.expect_err("no whole answer");
    server.will(stalled);
    let ours = way.put(record(None)).await.expect_err("no whole answer");
    assert_eq!((ours.kind, ours.status, ours.passes()), (theirs.kind, theirs.status, theirs.passes()));

    server.tasks.shutdown().await;
    let theirs = puts.by_the_sdk(record(None)).await;
    assert_eq!(way.put(record(None)).await, theirs);
    assert!(theirs.is_err_and(|failure| failure.status.is_none()));
}

#[tokio::test]
async fn both_ways_send_the_same_request() {
    for path_style in [true, false] {
        for over in [None, Some("\"v1\"")] {
            let server = Server::start().await;
            let (puts, way) = shown(&server, path_style).await;
            server.will(stands());
            puts.by_the_sdk(record(over)).await.expect("stands");
            server.will(stands());
            way.put(record(over)).await.expect("stands");
            let seen = server.seen();
            let (theirs, ours) = (&seen[1], &seen[2]);
            assert_eq!(ours.1["host"].starts_with("ledger."), !path_style, "{}", ours.1["host"]);
            assert_eq!((&ours.0, &ours.2), (&theirs.0, &theirs.2));
            let names = |seen: &Seen| seen.1.keys().cloned().collect::<Vec<_>>();
            assert_eq!(names(ours), names(theirs));
            let signed = |seen: &Seen| {
                let authorization = &seen.1["authorization"];
                authorization.split_once(", Signature=").expect("a signature").0.to_owned()
            };
            assert_eq!(signed(ours), signed(theirs));
            // What belongs to one request.
            let own = ["authorization", "amz-sdk-invocation-id", "amz-sdk-request", "x-amz-date"];
            for (name, value) in theirs.1.iter().filter(|(name, _)| !own.contains(&name.as_str())) {
                assert_eq!(&ours.1[name], value, "{name}");
            }
        }
    }
}

#[tokio::test]
async fn the_same_request_at_the_same_moment_has_the_sdks_signature() {
    let server = Server::start().await;
    let (puts, way) = shown(&server, true).await;
    server.will(stands());
    puts.by_the_sdk(record(None)).await.expect("stands");
    let seen = server.seen().pop().expect("the SDK's request");
    let mut request = way.request(record(None)).expect("a request");
    let keys = Credentials::new("key", "secret", Some("token".into()), None, "test");
    let format = time::macros::format_description!("[year][month][day]T[hour][minute][second]Z");
    let moment = time::PrimitiveDateTime::parse(&seen.1["x-amz-date"], format).expect("a moment");
    way.sign(&mut request, &keys.into(), moment.assume_utc().into()).expect("signed");
    assert_eq!(request.headers().get("authorization"), Some(&*seen.1["authorization"]));
}

#[tokio::test]
async fn the_stores_clock_is_followed() {
    let server = Server::start().await;
    let puts = server.puts(true, "ledger").await;
    let answered = answer(200, "Date: Wed, 21 Oct 2099 07:28:00 GMT\r\nETag: \"one\"\r\n", "");
    for _ in 0..3 {
        server.will(answered.clone());
        puts.put(record(None)).await.expect("stands");
    }
    let dates: Vec<_> = server.seen().iter().map(|seen| seen.1["x-amz-date"][..8].to_owned()).collect();
    assert_ne!(dates[0], "20991021");
    assert_eq!(dates[1..], ["20991021", "20991021"]);
}

#[tokio::test]
async fn what_is_refused_is_left_to_the_sdk_until_it_succeeds() {
    let server = Server::start().await;
    let (puts, _) = shown(&server, true).await;
    for (scripted, known) in [
        (error(412, "PreconditionFailed"), true),
        (error(503, "SlowDown"), true),
        (error(403, "ExpiredToken"), false),
        (error(403, "ExpiredToken"), false),
        (stands(), true),
        (error(301, "PermanentRedirect"), false),
    ] {
        server.will(scripted.clone());
        puts.put(record(None)).await.ok();
        assert_eq!(puts.known().is_some(), known, "{scripted:?}");
    }
}

#[test]
fn only_a_plain_bucket_has_a_way() {
    for (authorization, expected) in [
        ("AWS4-HMAC-SHA256 Credential=A/K/20260101/eu-1/s3/aws4_request, SignedHeaders=a", Some("eu-1")),
        ("AWS4-HMAC-SHA256 Credential=K/20260101/eu-1/s3express/aws4_request, SignedHeaders=a", None),
        ("AWS4-HMAC-SHA256 Credential=K/20260101/eu-1/s3-outposts/aws4_request, SignedHeaders=a", None),
        ("AWS4-ECDSA-P256-SHA256 Credential=K/20260101/s3/aws4_request, SignedHeaders=a", None),
        ("Bearer x", None),
    ] {
        let scope = way::scope(authorization);
        assert_eq!(scope.as_ref().map(|(region, _)| &**region), expected, "{authorization}");
    }
    for (bucket, plain) in
        [("ledger", true), ("ledger--use1-az4--x-s3", false), ("arn:aws:s3:us-east-1:1:accesspoint/a", false)]
    {
        assert_eq!(is_plain(bucket), plain, "{bucket}");
    }
}
