//! Publishing over connections that are lost: a publish ends with its confirm, or with its connection.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use restore_sandbox::wait::until;
use restore_worker::{
    broker::{Broker, PublishError, Submission},
    config::Sources,
    contract::Parser,
    metrics::Metrics,
};
use tokio::{task::JoinSet, time::timeout};
use tokio_util::sync::CancellationToken;

use crate::support::{broker_behind_a_proxy, stack};

const LIMIT: Duration = Duration::from_secs(60);
/// Connections that end while channels are being opened on them.
const CUTS: u64 = 100;
/// Publishers at once, more than there are channels.
const PUBLISHERS: u32 = 64;

/// lapin never answers a request that comes just when its connection ends. So many ask for a channel then, again and again; with
/// an hour's patience for the broker, one that still waits although its connection is gone is waited for in vain.
#[tokio::test(flavor = "multi_thread")]
async fn a_publish_ends_with_its_connection() -> Result<()> {
    let stack = stack("a_publish_ends_with_its_connection").await?;
    let (proxy, uri) = broker_behind_a_proxy(&stack).await?;
    let variables = stack.variables_and(&[
        ("BROKER__URI", &uri),
        ("BROKER__CONFIRM_TIMEOUT", "1h"),
        ("BROKER__PUBLISH_CHANNELS", "32"),
    ]);
    let settings = Sources { file: None, environment: variables.into_iter().collect() }.operator()?.broker;
    let metrics = Arc::new(Metrics::register("test", "")?);
    let broker = Broker::new(settings, Parser { default_tenant: None }, Arc::clone(&metrics));
    broker.open().await?;

    let published = |outcome| metrics.publish.with_label_values(&["job", outcome]).get();
    let done = CancellationToken::new();
    let mut publishing = JoinSet::new();
    for _ in 0..PUBLISHERS {
        let (broker, done) = (broker.clone(), done.clone());
        publishing.spawn(async move {
            let job = Submission {
                body: b"{}",
                job_id: "j",
                correlation_id: None,
                reply_to: None,
                user_id: None,
                shard: None,
            };
            while !done.is_cancelled() {
                match broker.publisher().job(&job).await {
                    Ok(()) | Err(PublishError::Unconfirmed(_)) => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(())
        });
    }
    for cut in 0..CUTS {
        until("another connection", LIMIT, async || Ok((proxy.accepted() > cut).then_some(()))).await?;
        // The first is confirmed while the others' channels are still being opened.
        let before = published("confirmed");
        until("a confirm", LIMIT, async || Ok((published("confirmed") > before).then_some(()))).await?;
        proxy.cut();
    }
    done.cancel();
    while let Some(ended) =
        timeout(LIMIT, publishing.join_next()).await.with_context(|| format!("{} hang", publishing.len()))?
    {
        ended??;
    }
    assert!(published("unconfirmed") > CUTS, "{} lost with their connection", published("unconfirmed"));
    Ok(())
}
