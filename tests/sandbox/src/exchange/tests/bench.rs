//! The model must not be what a benchmark measures.

use super::super::Limits;
use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_item_is_taken_in_one_stream() -> Result<()> {
    let stage = Stage::with(Options { limits: Limits::none(), ..Options::default() }).await?;
    let url = stage.session(MAILBOX).await?;
    let body = create(&"k".repeat(8 * 1024 * 1024)).to_string();
    let length = body.len();
    let request = stage.client.post(&url).header("content-type", "application/json").body(body);
    assert_eq!(request.send().await?.status(), 200);
    assert!(length as u64 > 11_000_000);
    assert_eq!(stage.exchange.items(MAILBOX).first().map(|item| item.length), Some(8 * 1024 * 1024 + 24));
    stage.no_violations()
}
