//! The real binary as a child process: started, watched through its own listeners and its log, signalled.

use std::{
    collections::BTreeMap,
    fs::File,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    process::{Child, Command},
    time::timeout,
};

use crate::wait::until;

/// How long a start, an answer, an end may take.
const LIMIT: Duration = Duration::from_secs(60);

/// A running worker. Dropping it kills it.
#[derive(Debug)]
pub struct Worker {
    child: Child,
    log: PathBuf,
    admin: Option<SocketAddr>,
}

impl Worker {
    /// Starts `binary run` with these variables and nothing else of our environment but `PATH`. Does not wait for readiness.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn spawn(binary: &Path, variables: &BTreeMap<String, String>, log: &Path) -> Result<Self> {
        Self::command(binary, &["run"], variables, log)
    }

    /// Starts the binary with any arguments.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn command(
        binary: &Path,
        arguments: &[&str],
        variables: &BTreeMap<String, String>,
        log: &Path,
    ) -> Result<Self> {
        let output = File::create(log).with_context(|| format!("cannot create {}", log.display()))?;
        let mut command = Command::new(binary);
        command
            .args(arguments)
            .env_clear()
            .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
            .envs(variables)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .kill_on_drop(true);
        let child = command.spawn().with_context(|| format!("cannot start {}", binary.display()))?;
        Ok(Self { child, log: log.to_owned(), admin: None })
    }

    /// Everything that it has printed.
    #[must_use]
    pub fn output(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Its log lines that are JSON.
    #[must_use]
    pub fn log_lines(&self) -> Vec<Value> {
        self.output().lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Its process id, while it runs.
    #[must_use]
    pub fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// The address of its admin listener, from its own log.
    ///
    /// # Errors
    /// If it ends before, or takes too long.
    pub async fn admin(&mut self) -> Result<SocketAddr> {
        if let Some(admin) = self.admin {
            return Ok(admin);
        }
        let log = self.log.clone();
        let child = &mut self.child;
        let found = until("the admin listener", LIMIT, async || {
            if let Some(status) = child.try_wait()? {
                bail!(
                    "the worker ended with {status}:\n{}",
                    std::fs::read_to_string(&log).unwrap_or_default()
                );
            }
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            let line = text
                .lines()
                .filter_map(|l| serde_json::from_str::<Value>(l).ok())
                .find(|l| l["message"] == "serving health and metrics");
            Ok(line.and_then(|l| l["listen"].as_str().and_then(|a| a.parse().ok())))
        })
        .await?;
        self.admin = Some(found);
        Ok(found)
    }

    /// Waits until `/readyz` answers 200.
    ///
    /// # Errors
    /// If it ends before, or takes too long.
    pub async fn ready(&mut self) -> Result<()> {
        self.readiness(200).await
    }

    /// Waits until `/readyz` answers 503.
    ///
    /// # Errors
    /// If it ends before, or takes too long.
    pub async fn unready(&mut self) -> Result<()> {
        self.readiness(503).await
    }

    async fn readiness(&mut self, wanted: u16) -> Result<()> {
        let admin = self.admin().await?;
        let (child, log) = (&mut self.child, &self.log);
        until("readiness", LIMIT, async || {
            if let Some(status) = child.try_wait()? {
                bail!(
                    "the worker ended with {status}:\n{}",
                    std::fs::read_to_string(log).unwrap_or_default()
                );
            }
            let (status, _) = http_get(admin, "/readyz").await?;
            Ok((status == wanted).then_some(()))
        })
        .await
        .with_context(|| format!("/readyz is not {wanted}:\n{}", self.output()))
    }

    /// A page of its admin listener.
    ///
    /// # Errors
    /// If it does not answer.
    pub async fn get(&mut self, path: &str) -> Result<(u16, String)> {
        let admin = self.admin().await?;
        http_get(admin, path).await
    }

    /// The sum of a metric's samples whose labels hold all of these texts, for example `status="succeeded"`.
    ///
    /// # Errors
    /// If it does not answer.
    pub async fn metric(&mut self, name: &str, labels: &[&str]) -> Result<f64> {
        let (_, text) = self.get("/metrics").await?;
        Ok(sum(&text, name, labels))
    }

    /// Waits until a metric reaches a value.
    ///
    /// # Errors
    /// If it takes too long.
    pub async fn metric_reaches(&mut self, name: &str, labels: &[&str], value: f64) -> Result<()> {
        let admin = self.admin().await?;
        until(&format!("{name}{labels:?} >= {value}"), LIMIT, async || {
            let (_, text) = http_get(admin, "/metrics").await?;
            Ok((sum(&text, name, labels) >= value).then_some(()))
        })
        .await
        .with_context(|| self.output())
    }

    /// Waits until its log holds a text.
    ///
    /// # Errors
    /// If it takes too long.
    pub async fn logs(&self, what: &str) -> Result<()> {
        until(what, LIMIT, async || Ok(self.output().contains(what).then_some(())))
            .await
            .with_context(|| self.output())
    }

    /// Sends a signal by its name: `TERM`, `KILL`, `STOP`, `CONT`, `INT`.
    ///
    /// # Errors
    /// If it has ended.
    pub async fn signal(&self, name: &str) -> Result<()> {
        let id = self.child.id().context("the worker has ended")?;
        let status = Command::new("kill").arg(format!("-{name}")).arg(id.to_string()).status().await?;
        if status.success() { Ok(()) } else { bail!("kill -{name} {id}: {status}") }
    }

    /// `VmHWM:` (the peak) or `VmRSS:`, MiB. Source: `proc(5)`, `/proc/pid/status`.
    ///
    /// # Errors
    /// If the process is gone.
    pub fn memory(&self, which: &str) -> Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id().context("a process")?))?;
        let line = status.lines().find(|line| line.starts_with(which)).context("a line")?;
        Ok(line.split_whitespace().nth(1).context("a number")?.parse::<f64>()? / 1_024.0)
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// If it takes too long.
    pub async fn wait(&mut self) -> Result<ExitStatus> {
        match timeout(LIMIT, self.child.wait()).await {
            Ok(status) => Ok(status?),
            Err(_) => bail!("the worker did not end within {LIMIT:?}:\n{}", self.output()),
        }
    }

    /// Sends SIGTERM and waits for its end.
    ///
    /// # Errors
    /// If it takes too long.
    pub async fn terminate(&mut self) -> Result<ExitStatus> {
        self.signal("TERM").await?;
        self.wait().await
    }

    /// Kills it at once.
    ///
    /// # Errors
    /// If it cannot be killed.
    pub async fn kill(&mut self) -> Result<()> {
        self.child.kill().await.context("kill")
    }
}

/// The sum of a metric's samples whose labels hold all of these texts.
#[must_use]
pub fn sum(text: &str, name: &str, labels: &[&str]) -> f64 {
    let sample = |line: &str| {
        let rest = line.strip_prefix(name)?;
        if !rest.starts_with(['{', ' ']) || !labels.iter().all(|label| rest.contains(label)) {
            return None;
        }
        rest.rsplit_once(' ')?.1.parse::<f64>().ok()
    };
    text.lines().filter_map(sample).sum()
}

/// GET over HTTP/1.0: status and body.
///
/// # Errors
/// If there is no answer.
pub async fn http_get(address: SocketAddr, path: &str) -> Result<(u16, String)> {
    let asked = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        let status = answer.split_whitespace().nth(1).and_then(|s| s.parse().ok()).context("no status")?;
        let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default();
        Ok((status, body))
    };
    timeout(Duration::from_secs(10), asked).await.context("no answer within 10 s")?
}
