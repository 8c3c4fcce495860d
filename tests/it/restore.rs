//! The main job, end to end.

use anyhow::Result;
use restore_sandbox::{
    fts::ItemSpec,
    stack::{FOLDER, create_job, update_job},
};

use crate::support::{binary, stack};

#[tokio::test(flavor = "multi_thread")]
async fn an_item_is_created_and_told() -> Result<()> {
    let stack = stack("an_item_is_created_and_told").await?;
    let mut worker = stack.worker(binary(), &[]).await?;
    let mut emitter = stack.emitter().await?;
    let mailbox = stack.mailbox("anna");
    let item = ItemSpec::mail(1, 40_000);
    stack.store("t1/0001.fts", &item);
    emitter.publish(&create_job("j-1", &mailbox, "t1/0001.fts")).await?;
    let event = emitter.next_result().await?;
    let told = event.json()?;
    let stored = stack.exchange.items(&mailbox);
    assert_eq!(stored.len(), 1, "{told:#}\n{}", worker.output());
    assert_eq!(told["status"], "succeeded", "{told:#}");
    assert_eq!(
        (told["itemId"].as_str(), told["changeKey"].as_str()),
        (Some(&*stored[0].item_id), Some(&*stored[0].change_key))
    );
    assert_eq!(stored[0].folder, FOLDER);
    assert_eq!((told["bytes"].as_u64(), told["sha256"].as_str()), (Some(40_000), Some(&*stored[0].sha256)));
    assert_eq!(event.message_id.as_deref(), Some("j-1/0/succeeded"));
    assert_eq!(event.headers["cloudEvents_type"], "restore.result.v1");
    assert!(worker.terminate().await?.success());
    assert_eq!(stack.exchange.violations(), Vec::<String>::new());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_item_is_updated_in_place() -> Result<()> {
    let stack = stack("an_item_is_updated_in_place").await?;
    let _worker = stack.worker(binary(), &[]).await?;
    let mut emitter = stack.emitter().await?;
    let mailbox = stack.mailbox("anna");
    let old = ItemSpec::mail(1, 5_000);
    let (item_id, change_key) = stack.exchange.add_item(
        &mailbox,
        FOLDER,
        restore_sandbox::exchange::ItemFacts::default(),
        &old.to_bytes(),
    );
    let new = ItemSpec::mail(2, 6_000);
    stack.store("new.fts", &new);
    emitter.publish(&update_job("j-2", &mailbox, "new.fts", &item_id, &change_key)).await?;
    let told = emitter.next_result().await?.json()?;
    assert_eq!(told["status"], "succeeded", "{told:#}");
    assert_eq!(told["itemId"], item_id.as_str());
    assert_ne!(told["changeKey"], change_key.as_str());
    let stored = stack.exchange.items(&mailbox);
    assert_eq!((stored.len(), stored[0].length), (1, 6_000));
    Ok(())
}
