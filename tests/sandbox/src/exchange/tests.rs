//! The model through a real client: what it refuses, how it throttles, how it misbehaves.

mod bench;
mod faults;
mod identity;
mod imports;
mod looks;
mod throttling;

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use reqwest::{Client, RequestBuilder, Response};
use serde_json::{Value, json};

use super::{ALL_ROLES, Exchange, ItemFacts, Options};

const TENANT: &str = "a7809c93-0000-4000-8000-000000000001";
const APP: &str = "b1e6b3a0-0000-4000-8000-000000000002";
const MAILBOX: &str = "MBX:e0643f21-0000-4000-8000-000000000003@a7809c93-0000-4000-8000-000000000001";
const OTHER: &str = "MBX:f10964a6-0000-4000-8000-000000000004@a7809c93-0000-4000-8000-000000000001";
const FOLDER: &str = "AAMkAGFolder==";

/// A model with one tenant, application, two mailboxes and a folder, and a client that trusts it.
struct Stage {
    exchange: Exchange,
    client: Client,
    token: String,
}

impl Stage {
    async fn new() -> Result<Self> {
        Self::with(Options::default()).await
    }

    async fn with(options: Options) -> Result<Self> {
        let exchange = Exchange::start(Options { read_item: read_test_item, ..options }).await?;
        exchange.add_tenant(TENANT);
        exchange.add_app(APP, "secret-1");
        exchange.grant(TENANT, APP, &ALL_ROLES);
        for mailbox in [MAILBOX, OTHER] {
            exchange.add_mailbox(TENANT, mailbox);
            exchange.add_folder(mailbox, FOLDER);
        }
        let client = client(&exchange)?.http1_only().build()?;
        let token = exchange.issue_token(TENANT, APP, &ALL_ROLES, Duration::from_mins(10));
        Ok(Self { exchange, client, token })
    }

    /// A POST without body to `createImportSession`.
    fn session_request(&self, version: &str, mailbox: &str) -> RequestBuilder {
        let url = format!(
            "{}/{version}/admin/exchange/mailboxes/{mailbox}/createImportSession",
            self.exchange.graph_url()
        );
        self.client.post(url).bearer_auth(&self.token).header("content-length", "0")
    }

    async fn session(&self, mailbox: &str) -> Result<String> {
        let answer = json_of(self.session_request("v1.0", mailbox).send().await?).await?;
        Ok(answer["importUrl"].as_str().context("no importUrl")?.to_owned())
    }

    fn post(&self, url: &str, body: &Value) -> RequestBuilder {
        self.client.post(url).header("content-type", "application/json").body(body.to_string())
    }

    /// Opens a session and creates an item with this text as its search key.
    async fn create(&self, key: &str) -> Result<Response> {
        let url = self.session(MAILBOX).await?;
        Ok(self.post(&url, &create(key)).send().await?)
    }

    async fn look(&self, path: &str) -> Result<Response> {
        let url = format!("{}/v1.0/admin/exchange/mailboxes/{path}", self.exchange.graph_url());
        Ok(self.client.get(url).bearer_auth(&self.token).send().await?)
    }

    /// The search keys of what is in the mailbox.
    fn keys(&self) -> Vec<String> {
        let items = self.exchange.items(MAILBOX);
        let keys = items.iter().filter_map(|item| item.search_key.as_deref());
        keys.map(|key| String::from_utf8_lossy(&super::store::unhex(key)).into_owned()).collect()
    }

    fn no_violations(&self) -> Result<()> {
        let violations = self.exchange.violations();
        ensure!(violations.is_empty(), "{violations:?}");
        Ok(())
    }

    /// Exactly one violation, and it says this.
    fn one_violation(&self, text: &str) -> Result<()> {
        let violations = self.exchange.violations();
        ensure!(violations.len() == 1 && violations.iter().all(|v| v.contains(text)), "{violations:?}");
        Ok(())
    }
}

fn client(exchange: &Exchange) -> Result<reqwest::ClientBuilder> {
    let ca = reqwest::Certificate::from_pem(exchange.ca_pem().context("own TLS")?.as_bytes())?;
    Ok(Client::builder().tls_certs_only([ca]).no_proxy().redirect(reqwest::redirect::Policy::none()))
}

async fn json_of(response: Response) -> Result<Value> {
    let text = response.text().await?;
    serde_json::from_str(&text).with_context(|| text)
}

/// Right records with this payload.
fn item(payload: &str) -> Vec<u8> {
    let mut bytes = vec![1, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0];
    bytes.extend([2, 0, 0, 0]);
    bytes.extend(u32::try_from(payload.len()).unwrap_or(0).to_le_bytes());
    bytes.extend(payload.as_bytes());
    bytes
}

/// Reads what [`item`] wrote: the payload is the search key.
fn read_test_item(bytes: &[u8]) -> Result<ItemFacts, String> {
    let facts = super::read_framing(bytes)?;
    Ok(ItemFacts {
        search_key: bytes.get(24..).map(<[u8]>::to_vec),
        subject: "a subject".into(),
        delivery_time: Some(1_700_000_000_000),
        properties: vec![("String 0x1035".into(), "<1@example>".into())],
        ..facts
    })
}

fn create(key: &str) -> Value {
    json!({"FolderId": FOLDER, "Mode": "create", "Data": STANDARD.encode(item(key))})
}

fn update(key: &str, item_id: &str, change_key: &str) -> Value {
    json!({"FolderId": FOLDER, "Mode": "update", "ItemId": item_id, "ChangeKey": change_key,
        "Data": STANDARD.encode(item(key))})
}
