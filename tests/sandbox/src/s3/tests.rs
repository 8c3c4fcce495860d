//! What the ledger and the blobs rely on, through the real client.

use aws_sdk_s3::{
    Client,
    config::{BehaviorVersion, Credentials, Region, retry::RetryConfig},
    primitives::ByteStream,
};

use super::*;

async fn client() -> (S3, Client) {
    let s3 = S3::start(&["bucket"]).await.expect("starts");
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .credentials_provider(Credentials::new(ACCESS_KEY, SECRET_KEY, None, None, "test"))
        .region(Region::new("us-east-1"))
        .endpoint_url(s3.endpoint())
        .force_path_style(true)
        .retry_config(RetryConfig::disabled())
        .build();
    (s3, Client::from_conf(config))
}

fn status<T, E>(result: Result<T, aws_sdk_s3::error::SdkError<E>>) -> u16 {
    match result {
        Ok(_) => 200,
        Err(error) => error.raw_response().map_or(0, |r| r.status().as_u16()),
    }
}

#[tokio::test]
async fn of_racing_writers_one_wins() {
    let (_s3, client) = client().await;
    let put = |n: usize| {
        client
            .put_object()
            .bucket("bucket")
            .key("k")
            .if_none_match("*")
            .body(ByteStream::from(vec![0; n]))
            .send()
    };
    let results = futures_util::future::join_all((0..16).map(put)).await;
    assert_eq!(results.iter().filter(|r| r.is_ok()).count(), 1);
    assert_eq!(status(put(1).await), 412);
}

#[tokio::test]
async fn a_change_is_made_over_what_was_read() {
    let (s3, client) = client().await;
    let put = |etag: String, body: &'static str| {
        client
            .put_object()
            .bucket("bucket")
            .key("k")
            .if_match(etag)
            .body(ByteStream::from_static(body.as_bytes()))
            .send()
    };
    assert_eq!(status(put("\"x\"".into(), "0").await), 404);
    s3.put("bucket", "k", Bytes::from_static(b"1"));
    let etag =
        client.get_object().bucket("bucket").key("k").send().await.expect("there").e_tag.expect("an ETag");
    assert_eq!(status(put(etag.clone(), "2").await), 200);
    assert_eq!(status(put(etag, "3").await), 412);
    assert_eq!(s3.backend().get("bucket", "k").as_deref(), Some(&b"2"[..]));
}

#[tokio::test]
async fn ranges_versions_and_what_is_missing() {
    let (s3, client) = client().await;
    s3.put("bucket", "k", Bytes::from_static(b"first"));
    s3.put("bucket", "k", Bytes::from_static(b"second"));
    let get = || client.get_object().bucket("bucket").key("k");
    let part = get()
        .range("bytes=1-3")
        .send()
        .await
        .expect("a part")
        .body
        .collect()
        .await
        .expect("bytes")
        .into_bytes();
    assert_eq!(&part[..], b"eco");
    let old = get()
        .version_id("v1")
        .send()
        .await
        .expect("a version")
        .body
        .collect()
        .await
        .expect("bytes")
        .into_bytes();
    assert_eq!(&old[..], b"first");
    assert_eq!(status(get().range("bytes=9-").send().await), 416);
    assert_eq!(status(client.get_object().bucket("bucket").key("none").send().await), 404);
    s3.backend().archive("bucket", "k");
    assert_eq!(status(get().send().await), 403);
}

#[tokio::test]
async fn trouble_by_script() {
    let (s3, client) = client().await;
    s3.put("bucket", "k", Bytes::from(vec![7; 300_000]));
    let get = || client.get_object().bucket("bucket").key("k").send();
    let slow = s3
        .faults()
        .add(Fault::new(Effect::Answer { status: 503, code: "SlowDown" }).key("bucket/k").times(2));
    assert_eq!((status(get().await), status(get().await), status(get().await)), (503, 503, 200));
    assert_eq!(s3.faults().fired(slow), 2);
    s3.faults().add(Fault::new(Effect::CutBody(100_000)));
    assert!(get().await.expect("a head").body.collect().await.is_err());
    s3.faults().add(Fault::new(Effect::LoseAnswer).method(hyper::Method::PUT));
    assert!(
        client
            .put_object()
            .bucket("bucket")
            .key("new")
            .body(ByteStream::from_static(b"x"))
            .send()
            .await
            .is_err()
    );
    assert!(s3.backend().get("bucket", "new").is_some(), "written, though nobody was told");
    s3.faults().set_out(true);
    assert!(get().await.is_err());
    s3.faults().clear_all();
    assert_eq!(status(get().await), 200);
}
