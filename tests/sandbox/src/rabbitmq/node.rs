//! One node: its directories, its environment, its life and death.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;
use tempfile::TempDir;
use tokio::time::timeout;

use super::ports::Ports;
use super::{Installation, Management, Options, escaped, install, tail};
use crate::supervised::{self, Supervised};
use crate::wait;

/// Erlang's virtual machine, by the name it has in the process list.
const BEAM: &str = "beam.smp";
const READY: &str = "Server startup complete";
const START_LIMIT: Duration = Duration::from_secs(120);
const STOP_LIMIT: Duration = Duration::from_secs(60);
const TOOL_LIMIT: Duration = Duration::from_secs(60);
/// Evaluated in the node after each start. RabbitMQ 3.10 writes its table of quorum queues down only seconds after
/// one was declared; killed before that, it throws the queue's log away on the next start, confirmed messages
/// included, and nobody elects a leader of it (ra#179, rabbitmq-server#10070). Nothing of that is what tests are
/// about, so the tables are written every [`SAFE_AFTER`] / 2, and an election is held in each queue.
const CARE: &str = "[catch ra:trigger_election(amqqueue:get_pid(Q)) || Q <- rabbit_amqqueue:list(), \
                    amqqueue:get_type(Q) =:= rabbit_quorum_queue], \
                    spawn(fun Care() -> [dets:sync(T) || T <- dets:all()], timer:sleep(50), Care() end).";
/// How long ago a queue must have been declared to survive a kill.
const SAFE_AFTER: Duration = Duration::from_millis(100);
/// How often other ports are tried when somebody else was quicker.
const ATTEMPTS: usize = 3;

/// A private RabbitMQ node. Dropping it ends all it has started.
#[derive(Debug)]
pub struct RabbitMq {
    // Fields are dropped in this order: the node before the epmd it talks to, the files last.
    beam: Option<Supervised>,
    epmd: Option<Supervised>,
    options: Options,
    ports: Ports,
    management: Option<Management>,
    dir: TempDir,
}

impl RabbitMq {
    /// Starts a node and waits until it is ready.
    pub async fn start(options: Options) -> Result<Self> {
        let mut attempt = 1;
        loop {
            match Self::start_once(options.clone()).await {
                Err(error) if attempt < ATTEMPTS && format!("{error:#}").contains("eaddrinuse") => {
                    attempt += 1;
                }
                outcome => return outcome,
            }
        }
    }

    async fn start_once(options: Options) -> Result<Self> {
        let ports = Ports::find()?;
        // Below /tmp, which a chroot shares with us.
        let dir = tempfile::Builder::new().prefix("restore-sandbox-rabbitmq-").tempdir_in("/tmp")?;
        let management =
            options.management.then(|| format!("http://guest:guest@127.0.0.1:{}", ports.management));
        let management = management.map(|uri| Management::at(&uri)).transpose()?;
        let mut node = Self { beam: None, epmd: None, options, ports, management, dir };
        node.write_files()?;
        node.boot().await?;
        Ok(node)
    }

    /// `amqp://…` of the default virtual host.
    #[must_use]
    pub fn uri(&self) -> String {
        format!("amqp://guest:guest@127.0.0.1:{}/%2f", self.ports.amqp)
    }

    /// `amqp://…` of a virtual host.
    #[must_use]
    pub fn vhost_uri(&self, vhost: &str) -> String {
        format!("amqp://guest:guest@127.0.0.1:{}/{}", self.ports.amqp, escaped(vhost))
    }

    /// `amqps://…` of a virtual host, if the node was started with TLS.
    #[must_use]
    pub fn tls_uri(&self, vhost: &str) -> Option<String> {
        let uri = format!("amqps://guest:guest@localhost:{}/{}", self.ports.amqps, escaped(vhost));
        self.options.tls.is_some().then_some(uri)
    }

    /// The address of the plain listener, to put a proxy before it.
    #[must_use]
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.ports.amqp)
    }

    /// The node's process, if it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        fs::read_to_string(self.path("pid")).ok()?.trim().parse().ok()
    }

    /// The HTTP interface, if the node was started with it.
    #[must_use]
    pub fn management(&self) -> Option<&Management> {
        self.management.as_ref()
    }

    /// Creates a virtual host and gives the URI to use it by: milliseconds with the management plugin, about
    /// two seconds without.
    pub async fn create_vhost(&self, name: &str) -> Result<String> {
        if let Some(management) = &self.management {
            management.create_vhost(name).await?;
        } else {
            self.rabbitmqctl(&["add_vhost", name]).await?;
            self.rabbitmqctl(&["set_permissions", "-p", name, "guest", ".*", ".*", ".*"]).await?;
        }
        Ok(self.vhost_uri(name))
    }

    /// Runs `rabbitmqctl` against this node and gives what it printed.
    pub async fn rabbitmqctl(&self, arguments: &[&str]) -> Result<String> {
        let mut command = match &self.options.installation {
            Installation::System => Command::new(program("rabbitmqctl")),
            Installation::Chroot(root) => {
                let mut command = Command::new("chroot");
                command.arg(root).arg(program("rabbitmqctl"));
                command
            }
        };
        command.args(arguments).envs(self.environment()).stdin(Stdio::null());
        let mut command = tokio::process::Command::from(command);
        let output = timeout(TOOL_LIMIT, command.kill_on_drop(true).output());
        let output = output.await.with_context(|| format!("rabbitmqctl {arguments:?}: no answer"))??;
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            let errors = String::from_utf8_lossy(&output.stderr);
            bail!("rabbitmqctl {arguments:?}: {}\n{printed}{errors}", output.status);
        }
        Ok(printed)
    }

    /// Kills the node as a lost machine would, a tenth of a second later, so that queues declared before this call
    /// are remembered (see `CARE`); its data stay.
    pub async fn kill(&mut self) -> Result<()> {
        tokio::time::sleep(SAFE_AFTER).await;
        self.kill_now().await
    }

    /// Kills the node at once; its data stay, but for queues declared just now.
    pub async fn kill_now(&mut self) -> Result<()> {
        let mut beam = self.beam.take().context("the node is not running")?;
        beam.kill();
        beam.wait_gone(BEAM, STOP_LIMIT).await
    }

    /// Stops the node in its own time (over five seconds); its data stay.
    pub async fn stop(&mut self) -> Result<()> {
        let beam = self.beam.take().context("the node is not running")?;
        ensure!(beam.signal(BEAM, Signal::TERM)? > 0, "the node has ended by itself");
        beam.wait_gone(BEAM, STOP_LIMIT).await
    }

    /// Starts the node again on the same data and ports, killing it first if it still runs.
    pub async fn restart(&mut self) -> Result<()> {
        if self.beam.is_some() {
            self.kill().await?;
        }
        self.boot().await
    }

    /// The last lines of the node's log.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let read = |name: &str| fs::read_to_string(self.path(name)).unwrap_or_default();
        tail(&format!("{}{}", read("output"), read("log/node.log")), 120)
    }

    async fn boot(&mut self) -> Result<()> {
        if self.epmd.is_none() {
            self.epmd = Some(self.start_epmd()?);
        }
        // Kept from the last life of the node, the line it is waited for would be found at once.
        for log in ["output", "log/node.log"] {
            match fs::rename(self.path(log), self.path(&format!("{log}.before"))) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
                _ => (),
            }
        }
        let mut command = self.command("rabbitmq-server");
        command.envs(self.environment());
        let mut beam = Supervised::spawn(command, &self.path("output"))?;
        let ready = wait::until("the node's start", START_LIMIT, async || {
            if let Some(status) = beam.ended()? {
                bail!("the node has ended: {status}");
            }
            let log = fs::read_to_string(self.path("log/node.log")).unwrap_or_default();
            Ok(log.contains(READY).then_some(()))
        });
        ready
            .await
            .with_context(|| format!("RabbitMQ does not start; the end of its log:\n{}", self.log_tail()))?;
        self.beam = Some(beam);
        self.rabbitmqctl(&["eval", CARE]).await?;
        Ok(())
    }

    fn start_epmd(&self) -> Result<Supervised> {
        let mut command = match &self.options.installation {
            Installation::System => supervised::command("epmd"),
            Installation::Chroot(root) => {
                let mut command = supervised::command("chroot");
                command.arg(root).arg("epmd");
                command
            }
        };
        command.args(["-port", &self.ports.epmd.to_string(), "-address", "127.0.0.1"]);
        Supervised::spawn(command, &self.path("epmd.log"))
    }

    fn command(&self, name: &str) -> Command {
        match &self.options.installation {
            Installation::System => supervised::command(program(name)),
            Installation::Chroot(root) => {
                let mut command = supervised::command("chroot");
                command.arg(root).arg(program(name));
                command
            }
        }
    }

    fn write_files(&self) -> Result<()> {
        for dir in ["home", "log", "mnesia", "schema", "generated"] {
            fs::create_dir(self.path(dir))?;
        }
        let cookie = self.path("home/.erlang.cookie");
        let letters = std::iter::repeat_with(fastrand::alphanumeric).take(32);
        fs::write(&cookie, letters.collect::<String>())?;
        fs::set_permissions(&cookie, fs::Permissions::from_mode(0o400))?;
        let mut plugins = self.options.plugins.clone();
        plugins.extend(self.options.management.then_some("rabbitmq_management"));
        fs::write(self.path("plugins"), format!("[{}].", plugins.join(",")))?;
        fs::write(self.path("environment"), "")?;
        fs::write(self.path("rabbitmq.conf"), self.configuration())?;
        let advanced = format!("[{}].\n", self.options.advanced_config.join(",\n"));
        Ok(fs::write(self.path("advanced.config"), advanced)?)
    }

    /// `rabbitmq.conf`.
    fn configuration(&self) -> String {
        let mut lines = vec![
            format!("listeners.tcp.1 = 127.0.0.1:{}", self.ports.amqp),
            "log.file = node.log".to_owned(),
            "log.file.level = info".to_owned(),
            "log.console = false".to_owned(),
            // The machine's disk and memory are none of the tests' business unless one says so.
            "disk_free_limit.absolute = 50MB".to_owned(),
        ];
        if self.options.management {
            lines.push("management.tcp.ip = 127.0.0.1".to_owned());
            lines.push(format!("management.tcp.port = {}", self.ports.management));
        }
        if let Some(tls) = &self.options.tls {
            lines.extend([
                format!("listeners.ssl.1 = 127.0.0.1:{}", self.ports.amqps),
                format!("ssl_options.cacertfile = {}", tls.authority.display()),
                format!("ssl_options.certfile = {}", tls.certificate.display()),
                format!("ssl_options.keyfile = {}", tls.key.display()),
                // Asks for a certificate in any case.
                "ssl_options.verify = verify_peer".to_owned(),
                format!("ssl_options.fail_if_no_peer_cert = {}", tls.require_client),
            ]);
        }
        lines.extend(self.options.extra_config.iter().cloned());
        lines.join("\n") + "\n"
    }

    /// All that keeps the node apart from everything else on the machine.
    fn environment(&self) -> Vec<(&'static str, OsString)> {
        let own = |name: &str| self.path(name).into_os_string();
        let port = |port: u16| OsString::from(port.to_string());
        let loopback = "-kernel inet_dist_use_interface {127,0,0,1}";
        // Two schedulers, which sleep when there is nothing to do instead of spinning: the cores are for others, too.
        let schedulers = "+S 2:2 +sbwt none +sbwtdcpu none +sbwtdio none";
        vec![
            ("HOME", own("home")),
            ("LC_ALL", "C.UTF-8".into()),
            ("ERL_CRASH_DUMP", own("erl_crash.dump")),
            ("RABBITMQ_NODENAME", format!("sandbox-{}@localhost", self.ports.amqp).into()),
            ("RABBITMQ_CONF_ENV_FILE", own("environment")),
            ("RABBITMQ_CONFIG_FILE", own("rabbitmq.conf")),
            ("RABBITMQ_ADVANCED_CONFIG_FILE", own("advanced.config")),
            ("RABBITMQ_ENABLED_PLUGINS_FILE", own("plugins")),
            ("RABBITMQ_MNESIA_BASE", own("mnesia")),
            ("RABBITMQ_LOG_BASE", own("log")),
            ("RABBITMQ_PID_FILE", own("pid")),
            ("RABBITMQ_SCHEMA_DIR", own("schema")),
            ("RABBITMQ_GENERATED_CONFIG_DIR", own("generated")),
            ("RABBITMQ_DIST_PORT", port(self.ports.distribution)),
            ("RABBITMQ_CTL_DIST_PORT_MIN", port(self.ports.tools)),
            ("RABBITMQ_CTL_DIST_PORT_MAX", port(self.ports.last_tool())),
            ("ERL_EPMD_PORT", port(self.ports.epmd)),
            ("ERL_EPMD_ADDRESS", "127.0.0.1".into()),
            ("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", format!("{loopback} {schedulers}").into()),
            ("RABBITMQ_CTL_ERL_ARGS", loopback.into()),
        ]
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

fn program(name: &str) -> PathBuf {
    Path::new(install::PROGRAMS).join(name)
}

#[cfg(test)]
mod tests {
    use lapin::options::{BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions};
    use lapin::types::FieldTable;
    use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
    use tokio::time::Instant;

    use super::*;

    const QUEUE: &str = "kept";

    async fn channel(uri: &str) -> Result<(Connection, Channel)> {
        let connection = Connection::connect(uri, ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        Ok((connection, channel))
    }

    async fn declare(channel: &Channel) -> Result<()> {
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), lapin::types::AMQPValue::LongString("quorum".into()));
        let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        channel.queue_declare(QUEUE.into(), options, arguments).await?;
        Ok(())
    }

    async fn publish(channel: &Channel, body: &[u8]) -> Result<()> {
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        let properties = BasicProperties::default().with_delivery_mode(2);
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let confirm =
            channel.basic_publish("".into(), QUEUE.into(), options, body, properties).await?.await?;
        ensure!(confirm.is_ack(), "not taken: {confirm:?}");
        Ok(())
    }

    async fn get(channel: &Channel) -> Result<Vec<u8>> {
        let got = channel.basic_get(QUEUE.into(), BasicGetOptions { no_ack: true }).await?;
        Ok(got.context("the queue is empty")?.delivery.data)
    }

    /// How a node lives: one story, because each start costs seconds.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_message_on_a_quorum_queue_survives_the_node_being_killed() -> Result<()> {
        install::ensure_installed().await?;
        let begin = Instant::now();
        let mut node = RabbitMq::start(Options::with_management()).await?;
        eprintln!("start with management: {:?}", begin.elapsed());

        let begin = Instant::now();
        let mut uri = String::new();
        for number in 0..10 {
            uri = node.create_vhost(&format!("test {number}")).await?;
        }
        eprintln!("virtual host over HTTP: {:?}", begin.elapsed() / 10);

        let (_connection, channel_before) = channel(&uri).await?;
        declare(&channel_before).await?;
        publish(&channel_before, b"first").await?;
        assert_eq!(get(&channel_before).await?, b"first");
        publish(&channel_before, b"second").await?;

        let begin = Instant::now();
        node.kill().await?;
        eprintln!("kill: {:?}", begin.elapsed());
        assert!(channel(&uri).await.is_err());

        let begin = Instant::now();
        node.restart().await?;
        eprintln!("restart after a kill: {:?}", begin.elapsed());
        let (_connection, channel_after) = channel(&uri).await?;
        let second = get(&channel_after).await.with_context(|| node.log_tail())?;
        assert_eq!(second, b"second");

        let begin = Instant::now();
        assert!(node.rabbitmqctl(&["list_vhosts", "-q"]).await?.contains("test 9"));
        eprintln!("rabbitmqctl: {:?}", begin.elapsed());

        let begin = Instant::now();
        node.stop().await?;
        eprintln!("stop: {:?}", begin.elapsed());
        let begin = Instant::now();
        node.restart().await?;
        eprintln!("restart after a stop: {:?}", begin.elapsed());
        Ok(())
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_node_without_management_takes_further_configuration() -> Result<()> {
        install::ensure_installed().await?;
        let options = Options {
            extra_config: vec!["consumer_timeout = 5000".to_owned()],
            advanced_config: vec!["{rabbit, [{channel_tick_interval, 3000}]}".to_owned()],
            ..Options::default()
        };
        let begin = Instant::now();
        let node = RabbitMq::start(options).await?;
        eprintln!("start without management: {:?}", begin.elapsed());
        let begin = Instant::now();
        let uri = node.create_vhost("one").await?;
        eprintln!("virtual host with rabbitmqctl: {:?}", begin.elapsed());
        let environment = node.rabbitmqctl(&["environment", "-q"]).await?;
        assert!(environment.contains("{channel_tick_interval,3000}"), "{environment}");
        assert!(environment.contains("{consumer_timeout,5000}"), "{environment}");
        let (_connection, channel) = channel(&uri).await?;
        declare(&channel).await?;
        publish(&channel, b"x").await
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_wrong_configuration_fails_with_the_end_of_the_log() -> Result<()> {
        install::ensure_installed().await?;
        let options = Options { extra_config: vec!["no_such_key = 1".to_owned()], ..Options::default() };
        let error = RabbitMq::start(options).await.err().context("it has started")?;
        assert!(format!("{error:#}").contains("no_such_key"), "{error:#}");
        Ok(())
    }
}
