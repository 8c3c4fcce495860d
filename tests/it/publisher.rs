//! Publishing over connections that are lost: a publish ends with its confirm, or with its connection.

use std::{sync::Arc, time::Duration};

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

const LIMIT: Duration = Duration::from_secs(60);
/// Connections that end while channels are being opened on them.
const CUTS: u64 = 200;
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
            let (mut confirmed, mut unconfirmed) = (0_u64, 0_u64);
            while !done.is_cancelled() {
                match broker.publisher().job(&job).await {
                    Ok(()) => confirmed += 1,
                    Err(PublishError::Unconfirmed(_)) => unconfirmed += 1,
                    Err(error) => return Err(error),
                }
            }
            Ok((confirmed, unconfirmed))
        });
    }
    for cut in 1..=CUTS {
        let another = async || Ok((proxy.accepted() >= cut && proxy.connections() > 0).then_some(()));
        until("another connection", LIMIT, another).await?;
        proxy.cut();
    }
    done.cancel();
    let (mut confirmed, mut unconfirmed) = (0, 0);
    while let Some(ended) =
        timeout(LIMIT, publishing.join_next()).await.with_context(|| format!("{} hang", publishing.len()))?
    {
        let (yes, no) = ended??;
        (confirmed, unconfirmed) = (confirmed + yes, unconfirmed + no);
    }
    assert!(
        confirmed > 0 && unconfirmed > 0,
        "{confirmed} confirmed, {unconfirmed} lost with their connection"
    );
    Ok(())
}
