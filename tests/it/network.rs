//! Behind a company network: a proxy, with a password or for some hosts only, and an authority of its own.

use std::{collections::BTreeMap, fs};

use anyhow::{Context as _, Result};
use restore_sandbox::{
    exchange::{Exchange, Options},
    stack::{Stack, exchange_options},
    tunnel::Tunnel,
    worker::Worker,
};

use crate::support::{self, binary, ends, stack, stack_with};

/// A name that no resolver knows: whoever reaches it went through the proxy.
const HOST: &str = "exchange.sandbox.invalid";

fn variables(stack: &Stack, more: &[(&str, &str)]) -> BTreeMap<String, String> {
    let mut variables = stack.variables();
    variables.extend(more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    variables
}

/// Restores one item, and gives what the worker printed.
async fn restores(stack: &Stack, id: &str, more: &[(&str, &str)]) -> Result<String> {
    let mut worker = Worker::spawn(binary(), &variables(stack, more), &stack.log())?;
    worker.ready().await?;
    support::restores(stack, &worker, id).await?;
    assert!(worker.terminate().await?.success());
    Ok(worker.output())
}

#[tokio::test(flavor = "multi_thread")]
async fn login_graph_and_import_host_are_reached_through_the_proxy() -> Result<()> {
    const CREDENTIAL: &str = "anna:pass~word~of~the~proxy";
    let stack = stack_with("network_proxy", Options { host: HOST.into(), ..exchange_options() }).await?;
    let proxy = Tunnel::start(None).await?;
    restores(&stack, "plain", &[("HTTPS_PROXY", &proxy.url(None))]).await?;
    let exchange = &stack.exchange;
    let wanted = [exchange.login_url(), exchange.graph_url(), exchange.import_url()];
    let wanted = wanted.map(|url| url.trim_start_matches("https://").to_owned());
    assert_eq!(proxy.hosts(), wanted.clone().into());

    let proxy = Tunnel::start(Some(CREDENTIAL)).await?;
    let (url, trace) = (proxy.url(Some(CREDENTIAL)), ("RESTORE_WORKER__LOG__LEVEL", "trace"));
    let said = restores(&stack, "password", &[("https_proxy", &url), trace]).await?;
    assert_eq!(proxy.hosts(), wanted.into());
    let (code, refused) =
        ends(&stack, variables(&stack, &[("HTTPS_PROXY", &proxy.url(Some("anna:not~the~password"))), trace]))
            .await?;
    assert_eq!(code, Some(69), "{refused}");
    assert!(proxy.refused() > 0 && refused.contains("proxy authorization required"), "{refused}");
    for secret in ["pass~word~of~the~proxy", "not~the~password", "YW5uYT"] {
        assert!(!said.contains(secret) && !refused.contains(secret), "{secret} was printed");
    }

    let (code, said) = ends(&stack, variables(&stack, &[])).await?;
    assert_eq!(code, Some(69), "nothing is reached without it: {said}");
    assert_eq!(stack.exchange.violations(), Vec::<String>::new());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_storage_is_reached_through_the_proxy_too() -> Result<()> {
    let stack = stack("network_storage").await?;
    let proxy = Tunnel::start(Some("anna:pass~word")).await?;
    let url = proxy.url(Some("anna:pass~word"));
    restores(&stack, "storage", &[("HTTP_PROXY", &url)]).await?;
    let storage = stack.s3.endpoint().trim_start_matches("http://").to_owned();
    assert_eq!(proxy.hosts(), [storage].into());
    restores(&stack, "around", &[("HTTP_PROXY", "http://127.0.0.1:1"), ("NO_PROXY", "127.0.0.1")]).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_of_no_proxy_are_reached_without_it() -> Result<()> {
    let stack = stack("network_no_proxy").await?;
    let proxy = Tunnel::start(None).await?;
    let url = proxy.url(None);
    // Neither is the storage, nor a machine's own identity, which are not asked over https.
    restores(&stack, "around", &[("HTTPS_PROXY", &url), ("NO_PROXY", "example.com,localhost")]).await?;
    assert_eq!(proxy.hosts().len(), 0, "{:?}", proxy.hosts());
    restores(&stack, "through", &[("HTTPS_PROXY", &url), ("NO_PROXY", "example.com")]).await?;
    assert_eq!(proxy.hosts().len(), 3);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_networks_own_authority_is_trusted_beside_others() -> Result<()> {
    const CA_FILE: &str = "RESTORE_WORKER__EXCHANGE__CA_FILE";
    let stack = stack("network_authority").await?;
    let other = Exchange::start(exchange_options()).await?;
    let (own, foreign) = (stack.exchange.ca_pem(), other.ca_pem());
    let (own, foreign) = (own.context("an authority")?, foreign.context("an authority")?);
    let file = stack.dir().join("bundle.pem");
    let path = file.to_str().context("a path that is text")?;
    fs::write(&file, format!("# the network's\n{foreign}\n# the sandbox's\n{own}"))?;
    restores(&stack, "bundle", &[(CA_FILE, path)]).await?;
    for (content, code, says) in [
        (foreign, 69, "invalid peer certificate"),
        ("no certificate", 78, "exchange.ca_file: holds no certificate"),
    ] {
        fs::write(&file, content)?;
        let (ended, said) = ends(&stack, variables(&stack, &[(CA_FILE, path)])).await?;
        assert_eq!(ended, Some(code), "{said}");
        assert!(said.contains(says), "{said}");
    }
    Ok(())
}
