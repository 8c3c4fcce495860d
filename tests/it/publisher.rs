//! Publishing over connections that are lost: a publish ends with its confirm, or with its connection.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use anyhow::{Context as _, Result};
use restore_sandbox::{proxy::Proxy, wait::until};
use restore_worker::{
    broker::{Broker, PublishError, Submission},
    config::Sources,
    contract::Parser,
    metrics::Metrics,
};
use tokio::{task::JoinSet, time::timeout};
use tokio_util::sync::CancellationToken;

use crate::support::stack;

type Count = Arc<AtomicU64>;

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
    let (login, place) = stack.uri.split_once('@').context("a login")?;
    let (address, vhost) = place.split_once('/').context("a vhost")?;
    let proxy = Proxy::start(address.parse()?).await?;
    let uri = format!("{login}@{}/{vhost}", proxy.addr());
    let variables = stack.variables_and(&[
        ("BROKER__URI", &uri),
        ("BROKER__CONFIRM_TIMEOUT", "1h"),
        ("BROKER__PUBLISH_CHANNELS", "32"),
    ]);
    let settings = Sources { file: None, environment: variables.into_iter().collect() }.operator()?.broker;
    let metrics = Arc::new(Metrics::register("test", "")?);
    let broker = Broker::new(settings, Parser { default_tenant: None }, metrics);
    broker.open().await?;

    let (done, confirmed, unconfirmed) = (CancellationToken::new(), Count::default(), Count::default());
    let mut publishing = JoinSet::new();
    for _ in 0..PUBLISHERS {
        let (broker, done) = (broker.clone(), done.clone());
        let (confirmed, unconfirmed) = (Arc::clone(&confirmed), Arc::clone(&unconfirmed));
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
                    Ok(()) => confirmed.fetch_add(1, Relaxed),
                    Err(PublishError::Unconfirmed(_)) => unconfirmed.fetch_add(1, Relaxed),
                    Err(error) => return Err(error),
                };
            }
            Ok(())
        });
    }
    for cut in 0..CUTS {
        until("another connection", LIMIT, async || Ok((proxy.accepted() > cut).then_some(()))).await?;
        // The first is confirmed while the others' channels are still being opened.
        let before = confirmed.load(Relaxed);
        until("a confirm", LIMIT, async || Ok((confirmed.load(Relaxed) > before).then_some(()))).await?;
        proxy.cut();
    }
    done.cancel();
    while let Some(ended) =
        timeout(LIMIT, publishing.join_next()).await.with_context(|| format!("{} hang", publishing.len()))?
    {
        ended??;
    }
    assert!(unconfirmed.load(Relaxed) > CUTS, "{} lost with their connection", unconfirmed.load(Relaxed));
    Ok(())
}
