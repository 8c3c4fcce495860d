//! One vhost of the broker, one S3, one Exchange, put together: everything that a worker needs, and the jobs to give it.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    authority::Authority,
    emitter::Emitter,
    exchange::{self, ALL_ROLES, Exchange, Limits},
    fts::{ItemSpec, read_item},
    s3::S3,
    worker::Worker,
};

/// The tenant of the sandbox.
pub const TENANT: &str = "a7809c93-0000-4000-8000-000000000001";
/// Its application.
pub const CLIENT_ID: &str = "c11e47d0-0000-4000-8000-000000000002";
/// The application's secret.
pub const CLIENT_SECRET: &str = "sandbox~client.secret~value";
/// Where blobs lie.
pub const BLOBS: &str = "backups";
/// Where records lie.
pub const RECORDS: &str = "restore-ledger";
/// Folder of every mailbox.
pub const FOLDER: &str = "SW5ib3g=";

/// Everything but the worker.
pub struct Stack {
    /// The broker, with this stack's vhost.
    pub uri: String,
    /// Storage.
    pub s3: S3,
    /// Login, Graph, import host.
    pub exchange: Exchange,
    dir: TempDir,
    workers: std::sync::atomic::AtomicUsize,
}

/// The options of an Exchange that reads items with the sandbox's own reader and whose limits are out of the way.
#[must_use]
pub fn exchange_options() -> exchange::Options {
    exchange::Options { read_item: facts, limits: Limits::none(), ..Default::default() }
}

fn facts(bytes: &[u8]) -> Result<exchange::ItemFacts, String> {
    let read = read_item(bytes)?;
    Ok(exchange::ItemFacts {
        message_class: read.message_class.unwrap_or_default(),
        subject: read.subject.unwrap_or_default(),
        search_key: read.search_key,
        delivery_time: read.delivery_time,
        properties: Vec::new(),
    })
}

impl Stack {
    /// Starts storage and Exchange beside a vhost that exists.
    ///
    /// # Errors
    /// If one of them does not start.
    pub async fn start(uri: String, options: exchange::Options) -> Result<Self> {
        Self::start_with(uri, S3::start(&[BLOBS, RECORDS]).await?, options).await
    }

    /// The same with a storage that speaks TLS, its certificate signed by this authority ([`Stack::storage_ca`]).
    ///
    /// # Errors
    /// If one of them does not start.
    pub async fn start_tls(uri: String, authority: &Authority, options: exchange::Options) -> Result<Self> {
        let s3 = S3::start_tls(&[BLOBS, RECORDS], authority).await?;
        let stack = Self::start_with(uri, s3, options).await?;
        std::fs::write(stack.storage_ca(), authority.pem())?;
        Ok(stack)
    }

    async fn start_with(uri: String, s3: S3, options: exchange::Options) -> Result<Self> {
        let exchange = Exchange::start(options).await?;
        exchange.add_tenant(TENANT);
        exchange.add_app(CLIENT_ID, CLIENT_SECRET);
        exchange.grant(TENANT, CLIENT_ID, &ALL_ROLES);
        let dir = tempfile::tempdir()?;
        std::fs::write(dir.path().join("ca.pem"), exchange.ca_pem().context("an authority of its own")?)?;
        Ok(Self { uri, s3, exchange, dir, workers: std::sync::atomic::AtomicUsize::default() })
    }

    /// The file of the authority that the storage's certificate is of, where it has one.
    #[must_use]
    pub fn storage_ca(&self) -> PathBuf {
        self.dir.path().join("storage-ca.pem")
    }

    /// A directory that lives as long as the stack.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The variables that lead a worker here. Times are short, so that a test sees what takes minutes elsewhere.
    #[must_use]
    pub fn variables(&self) -> BTreeMap<String, String> {
        let import_host = self
            .exchange
            .import_url()
            .trim_start_matches("https://")
            .split('/')
            .next()
            .unwrap_or_default()
            .to_owned();
        let ca = self.dir.path().join("ca.pem").display().to_string();
        let mut variables = self.s3.credentials();
        for (name, value) in [
            ("BROKER__URI", self.uri.as_str()),
            ("BROKER__WAIT_TIERS", "200ms,1s,5s"),
            ("STORAGE__ENDPOINT", &self.s3.endpoint()),
            ("STORAGE__PATH_STYLE", "true"),
            ("STORAGE__REGION", "us-east-1"),
            ("STORAGE__ALLOWED_BUCKETS", BLOBS),
            ("IDENTITY__KIND", "client_secret"),
            ("IDENTITY__TENANT_ID", TENANT),
            ("IDENTITY__CLIENT_ID", CLIENT_ID),
            ("IDENTITY__CLIENT_SECRET", CLIENT_SECRET),
            ("IDENTITY__AUTHORITY", self.exchange.login_url()),
            ("EXCHANGE__GRAPH", &format!("{}/v1.0", self.exchange.graph_url())),
            ("EXCHANGE__IMPORT_HOSTS", &import_host),
            ("EXCHANGE__CA_FILE", &ca),
            ("EXCHANGE__REQUEST_TIMEOUT", "5s"),
            ("LEDGER__BUCKET", RECORDS),
            ("RETRY__BASE", "100ms"),
            ("RETRY__MAX", "2s"),
            ("RETRY__HOLD", "500ms"),
            ("IN_DOUBT__SETTLE", "2s"),
            ("IN_DOUBT__CLOCK_MARGIN", "2s"),
            ("ADMIN__LISTEN", "127.0.0.1:0"),
            ("STARTUP__WAIT", "20s"),
            ("SHUTDOWN__GRACE", "20s"),
        ] {
            variables.insert(format!("RESTORE_WORKER__{name}"), value.to_owned());
        }
        let storage_ca = self.storage_ca();
        if storage_ca.is_file() {
            variables.insert("RESTORE_WORKER__STORAGE__CA_FILE".into(), storage_ca.display().to_string());
        }
        variables.insert("HOSTNAME".into(), "sandbox-worker".into());
        variables
    }

    /// The same and further ones (`SECTION__KEY`).
    #[must_use]
    pub fn variables_and(&self, more: &[(&str, &str)]) -> BTreeMap<String, String> {
        let mut variables = self.variables();
        variables.extend(
            more.iter().map(|(name, value)| (format!("RESTORE_WORKER__{name}"), (*value).to_owned())),
        );
        variables
    }

    /// Starts a worker with further variables (`SECTION__KEY`) and waits until it is ready.
    ///
    /// # Errors
    /// If it does not become ready.
    pub async fn worker(&self, binary: &Path, more: &[(&str, &str)]) -> Result<Worker> {
        let mut worker = self.spawn(binary, more)?;
        worker.ready().await?;
        Ok(worker)
    }

    /// Starts a worker with further variables, and waits for nothing.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn spawn(&self, binary: &Path, more: &[(&str, &str)]) -> Result<Worker> {
        self.spawn_with(binary, &["run"], more)
    }

    /// Starts a worker of its own name, one of several, and waits until it is ready.
    ///
    /// # Errors
    /// If it does not become ready.
    pub async fn named_worker(&self, binary: &Path, name: &str, more: &[(&str, &str)]) -> Result<Worker> {
        let mut variables = self.variables_and(more);
        variables.insert("HOSTNAME".into(), name.into());
        let mut worker = Worker::command(binary, &["run"], &variables, &self.log())?;
        worker.ready().await?;
        Ok(worker)
    }

    /// The same with any arguments.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn spawn_with(&self, binary: &Path, arguments: &[&str], more: &[(&str, &str)]) -> Result<Worker> {
        Worker::command(binary, arguments, &self.variables_and(more), &self.log())
    }

    /// A file for the next worker's output.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        let n = self.workers.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        self.dir.path().join(format!("worker-{n}.log"))
    }

    /// The other side of the queues.
    ///
    /// # Errors
    /// If the broker does not take us.
    pub async fn emitter(&self) -> Result<Emitter> {
        Emitter::connect(&self.uri, "restore").await
    }

    /// A mailbox with its folder.
    #[must_use]
    pub fn mailbox(&self, name: &str) -> String {
        let id = format!("MBX:{name}@{TENANT}");
        self.exchange.add_mailbox(TENANT, &id);
        self.exchange.add_folder(&id, FOLDER);
        id
    }

    /// Puts an item into storage.
    pub fn store(&self, key: &str, item: &ItemSpec) {
        self.s3.backend().put(BLOBS, key, item.chunks().collect());
    }
}

/// A job that creates an item.
#[must_use]
pub fn create_job(id: &str, mailbox: &str, key: &str) -> Value {
    json!({"jobId": id, "tenantId": TENANT, "mailboxId": mailbox, "folderId": FOLDER, "mode": "create", "blob": {"bucket": BLOBS, "key": key}})
}

/// A job that writes over an item.
#[must_use]
pub fn update_job(id: &str, mailbox: &str, key: &str, item_id: &str, change_key: &str) -> Value {
    let mut job = create_job(id, mailbox, key);
    job["mode"] = json!("update");
    job["itemId"] = json!(item_id);
    job["changeKey"] = json!(change_key);
    job
}
