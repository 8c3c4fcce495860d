//! One owner per mailbox: in which mode this fleet works, which shards a worker consumes because of it, and what of that can be
//! seen.
//!
//! Every worker consumes from every shard, a queue with a single active consumer, with a priority of its own for each. RabbitMQ
//! 4 makes the highest the active one, so the broker itself deals out the shards. 3.x leaves all of them to whoever came first:
//! there the fleet works in shared mode.

use std::{
    collections::{HashMap, VecDeque},
    sync::MutexGuard,
    time::Duration,
};

use futures_util::StreamExt as _;
use lapin::{
    Channel, Consumer,
    options::{
        BasicConsumeOptions, BasicQosOptions, QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions,
    },
    types::{AMQPValue, FieldTable},
};
use tokio::time::{Instant, timeout};
use tracing::{debug, info, warn};

use super::{
    Broker, BrokerError, Source, answered,
    connection::Connection,
    held,
    message::{cut, short},
    topology,
};
use crate::domain::{MailboxId, Shard, ShardCount};

/// `fleet.*`
#[derive(Clone, Copy, Debug)]
pub struct Fleet {
    /// How the mode is found.
    pub mode: Wanted,
    /// Shards of this layout.
    pub shards: ShardCount,
    /// Jobs held unacked at most, per shard.
    pub prefetch: u16,
    /// The number of shards before a change, as long as its queues hold jobs.
    pub previous: Option<ShardCount>,
}

/// `fleet.mode`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wanted {
    /// Sharded where the broker can.
    #[default]
    Auto,
    /// By name.
    Is(Mode),
}

/// How a fleet shares its mailboxes out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Each shard of mailboxes has one owner.
    Sharded,
    /// Every worker takes jobs of every mailbox.
    Shared,
}

impl Mode {
    /// The label `mode`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sharded => "sharded",
            Self::Shared => "shared",
        }
    }
}

/// What this worker knows of the fleet.
#[derive(Debug, Default)]
pub(super) struct Seen {
    mode: Option<Mode>,
    /// When a shard last delivered something here.
    delivered: HashMap<Shard, Instant>,
    /// When other workers were last there.
    company: Option<Instant>,
}

/// A shard that delivered something within this time counts as active.
const ACTIVE: Duration = Duration::from_mins(5);
/// How often the workers are counted, and some shards stirred.
pub(super) const ROUND_EVERY: Duration = Duration::from_secs(30);
/// How many shards are stirred each time.
const STIRRED: usize = 16;
/// The priority of a consumer that is there to stir: below every worker's.
const LAST: i64 = -1;
/// How long the broker may take to choose a consumer, on a queue made for that.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);
/// A probe's queue that was left behind is gone after this, milliseconds.
const PROBE_EXPIRES: i64 = 60_000;

impl Broker {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        held(&self.state.fleet)
    }

    /// Where a delivery has to go on before anything is done: from the intake to its mailbox's shard, and from a shard where it
    /// does not belong to its own. A layout that goes out of use keeps what is its own, so that two layouts never play ball.
    #[must_use]
    pub fn destination(&self, source: Source, mailbox: &MailboxId) -> Option<Shard> {
        match source {
            Source::Jobs => self.is_sharded().then(|| self.settings.fleet.shards.shard_of(mailbox)),
            Source::Shard(shard) => (!shard.holds(mailbox)).then(|| shard.count().shard_of(mailbox)),
            Source::GivenUp => None,
        }
    }

    /// Whether each mailbox has one owner.
    #[must_use]
    pub fn is_sharded(&self) -> bool {
        self.seen().mode == Some(Mode::Sharded)
    }

    /// A number of its own for each queue that work comes from; 0: the job queue.
    #[must_use]
    pub fn queue_number(&self, source: Source) -> u16 {
        let layout = self.settings.fleet.shards;
        match source {
            Source::Jobs | Source::GivenUp => 0,
            Source::Shard(shard) if shard.count() == layout => 1 + shard.number(),
            Source::Shard(shard) => 1 + layout.get() + shard.number(),
        }
    }

    /// Whether another worker may have worked on this shard's mailboxes within a time.
    #[must_use]
    pub fn had_company(&self, source: Source, within: Duration) -> bool {
        matches!(source, Source::Shard(_)) && self.seen().company.is_some_and(|at| at.elapsed() <= within)
    }

    /// Shards that delivered something here within five minutes.
    #[must_use]
    pub fn shards_active(&self) -> usize {
        self.seen().delivered.values().filter(|at| at.elapsed() <= ACTIVE).count()
    }

    /// Notes that a shard delivered something.
    pub(super) fn note_delivery(&self, shard: Shard) {
        let mut seen = self.seen();
        let before = seen.delivered.insert(shard, Instant::now());
        if before.is_none_or(|at| at.elapsed() > ACTIVE) && seen.company.is_some() {
            self.metrics.shard_handovers.inc();
        }
    }

    /// Counts the workers, and stirs the shards whose turn it is.
    pub(super) async fn go_round(
        &self,
        connection: &Connection,
        shards: &mut VecDeque<Shard>,
    ) -> Result<(), BrokerError> {
        self.look_for_company(connection).await?;
        let some = shards.len().min(STIRRED);
        shards.rotate_left(some);
        self.stir(connection, shards.range(shards.len() - some..)).await
    }

    async fn look_for_company(&self, connection: &Connection) -> Result<(), BrokerError> {
        if topology::workers(connection, &self.settings.names).await? > 1 {
            self.seen().company = Some(Instant::now());
        }
        Ok(())
    }

    /// Makes something happen in these shards: a consumer comes that stands last in the row, behind this worker's own, and goes.
    /// RabbitMQ 4.3 takes back what a dead consumer holds after `consumer_timeout`, but it may lose the timer for that, and sets it
    /// anew only when something else happens in the queue: a shard to which nothing is published any more would stay with the dead
    /// (`docs/fleet.md`, "What RabbitMQ gets wrong").
    async fn stir(
        &self,
        connection: &Connection,
        shards: impl Iterator<Item = &Shard>,
    ) -> Result<(), BrokerError> {
        let channel = connection.channel().await?;
        answered(channel.basic_qos(1, BasicQosOptions::default())).await?;
        for shard in shards {
            consumer(&channel, &self.settings.names.shard(*shard), LAST).await?;
        }
        topology::close(&channel).await;
        Ok(())
    }

    /// Finds the mode, makes sure of its shards, and gives those to consume. In shared mode, too, and of the layout before, those
    /// that are there are consumed: none may be left without a consumer.
    pub(super) async fn shards(&self, connection: &Connection) -> Result<Vec<Shard>, BrokerError> {
        let (fleet, names) = (self.settings.fleet, &self.settings.names);
        let mode = match fleet.mode {
            Wanted::Is(mode) => mode,
            // Brokers are upgraded, not the other way; a trial costs a queue.
            Wanted::Auto if self.is_sharded() => Mode::Sharded,
            Wanted::Auto => self.probe(connection).await?,
        };
        let mut shards = match mode {
            Mode::Sharded => {
                topology::ensure_shards(connection, names, fleet.shards, self.settings.declare).await?;
                fleet.shards.shards().collect()
            }
            Mode::Shared => topology::existing_shards(connection, names, fleet.shards).await?,
        };
        if let Some(previous) = fleet.previous.filter(|previous| *previous != fleet.shards) {
            shards.extend(topology::existing_shards(connection, names, previous).await?);
        }
        self.set_mode(mode, shards.len());
        Ok(shards)
    }

    fn set_mode(&self, mode: Mode, shards: usize) {
        if self.seen().mode.replace(mode) == Some(mode) {
            return;
        }
        self.metrics.fleet_mode.reset();
        self.metrics.fleet_mode.with_label_values(&[mode.as_str()]).set(1);
        if mode == Mode::Shared && self.settings.fleet.mode == Wanted::Auto {
            warn!(
                mode = mode.as_str(),
                shards,
                "this broker cannot give a mailbox one owner (RabbitMQ 4 can): every worker takes jobs of every mailbox"
            );
        } else {
            info!(mode = mode.as_str(), shards, "the fleet's mode");
        }
    }

    /// Whether this broker prefers the consumer of higher priority: tried, since no version number says so.
    async fn probe(&self, connection: &Connection) -> Result<Mode, BrokerError> {
        let channel = connection.channel().await?;
        let queue = self.settings.names.probe(&uuid::Uuid::new_v4().to_string());
        let probed = self.probe_on(&channel, &queue).await;
        // First the channel with its consumers: 3.10 fails over the cancel of a consumer whose queue is gone.
        topology::close(&channel).await;
        if let Ok(channel) = connection.channel().await {
            if answered(channel.queue_delete(cut(&queue), QueueDeleteOptions::default())).await.is_err() {
                debug!(queue, "the probe's queue is left to expire");
            }
            topology::close(&channel).await;
        }
        match probed {
            Ok(mode) => Ok(mode),
            Err(error) if connection.stands() => {
                warn!(%error, "fleet.mode: auto could not be tried; name sharded or shared");
                Ok(Mode::Shared)
            }
            Err(error) => Err(error),
        }
    }

    async fn probe_on(&self, channel: &Channel, queue: &str) -> Result<Mode, BrokerError> {
        let mut arguments = topology::quorum();
        arguments.insert(short(topology::SINGLE_ACTIVE_CONSUMER), AMQPValue::Boolean(true));
        arguments.insert(short("x-expires"), AMQPValue::LongLongInt(PROBE_EXPIRES));
        let options = QueueDeclareOptions { durable: true, ..Default::default() };
        answered(channel.queue_declare(cut(queue), options, arguments)).await?;
        let exchange = cut(self.settings.names.exchange());
        let binding = QueueBindOptions::default();
        answered(channel.queue_bind(cut(queue), exchange, cut(queue), binding, FieldTable::default()))
            .await?;
        let mut low = consumer(channel, queue, 0).await?;
        let mut high = consumer(channel, queue, 1).await?;
        let published = self.publisher.echo(queue, b"probe").await;
        published.map_err(|error| BrokerError::Unavailable(error.to_string()))?;
        let chosen = async {
            tokio::select! {
                Some(Ok(_)) = high.next() => Some(Mode::Sharded),
                Some(Ok(_)) = low.next() => Some(Mode::Shared),
                else => None,
            }
        };
        match timeout(PROBE_TIMEOUT, chosen).await {
            Ok(Some(mode)) => Ok(mode),
            Ok(None) | Err(_) => Err(BrokerError::Unavailable("the probe's message did not come".into())),
        }
    }
}

/// Registers a consumer of a certain priority.
pub(super) async fn consumer(channel: &Channel, queue: &str, priority: i64) -> lapin::Result<Consumer> {
    let mut arguments = FieldTable::default();
    arguments.insert(short("x-priority"), AMQPValue::LongLongInt(priority));
    answered(channel.basic_consume(cut(queue), short(""), BasicConsumeOptions::default(), arguments)).await
}
