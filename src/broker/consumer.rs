//! Takes jobs: connects, declares, consumes, hands each delivery on as an [`Envelope`], and begins again when anything of it is
//! lost. Never deaf: an echo through the consuming channel proves that it still hears.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures_util::{
    Stream, StreamExt as _, TryFutureExt as _, TryStreamExt as _,
    future::{ready, try_join_all},
    stream::{self, SelectAll, once},
};
use lapin::{
    Acker, Channel, Consumer,
    message::Delivery,
    options::{BasicAckOptions, BasicCancelOptions, BasicNackOptions, BasicQosOptions},
};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, MissedTickBehavior, interval, sleep, timeout},
};
use tracing::{info, warn};

use super::{
    Broker, Message, answered,
    connection::Connection,
    echo::Echo,
    held,
    loss::Lost,
    shards::{ROUND_EVERY, consumer},
    topology,
};
use crate::{
    contract::Malformed,
    domain::{Journey, RestoreJob, Shard, UnixMillis, retry::Backoff},
    metrics::Metrics,
};

/// What the consumer is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intent {
    /// Consume.
    Run,
    /// Hold nothing that has not begun; consume nothing until told otherwise.
    Pause,
    /// Give back what has not begun and end.
    Drain,
}

/// The queue that a delivery came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Work, of any mailbox.
    Jobs,
    /// Work of the mailboxes of one shard.
    Shard(Shard),
    /// What the broker itself gave up.
    GivenUp,
}

/// A delivery, opened: a poison message is an ordinary value.
#[derive(Debug)]
pub struct Envelope {
    /// The queue.
    pub source: Source,
    /// The job, or why it is none.
    pub job: Result<Box<RestoreJob>, Malformed>,
    /// The message.
    pub message: Message,
    /// The job's way so far.
    pub journey: Journey,
    /// When this delivery came.
    pub received: Instant,
    /// The one right to settle it.
    pub settlement: Settlement,
}

/// The one right to settle a delivery.
#[must_use = "a delivery that is never settled stays with this worker until its connection ends"]
#[derive(Debug)]
pub struct Settlement {
    acker: Acker,
    metrics: Arc<Metrics>,
}

/// What became of a settlement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// It was sent (which the broker never confirms).
    Sent,
    /// The channel is gone: the broker delivers the message again.
    Void,
}

impl Settlement {
    /// Ends the message.
    pub async fn ack(self) -> Settled {
        sent(&answered(self.acker.ack(BasicAckOptions::default())).await)
    }

    /// Gives the message back to its queue as it came.
    pub async fn give_back(self) -> Settled {
        self.metrics.deliveries.with_label_values(&[RETURNED]).inc();
        sent(&answered(self.acker.nack(BasicNackOptions { requeue: true, multiple: false })).await)
    }

    /// Whether the channel is gone, so that nothing can be settled any more.
    #[must_use]
    pub fn is_void(&self) -> bool {
        !self.acker.usable()
    }
}

/// On a lost channel lapin answers `Ok(false)`, not an error.
fn sent(result: &lapin::Result<bool>) -> Settled {
    match result {
        Ok(true) => Settled::Sent,
        Ok(false) | Err(_) => Settled::Void,
    }
}

/// Reconnect delays: back within 5 s once the broker is.
const RECONNECT: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(3));
/// Given-up jobs held unacked at most.
const GIVEN_UP_PREFETCH: u16 = 16;
/// How long a cancelled consumer may take to hand over what it holds.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(5);

/// Every kind of delivery: the label `kind` of `restore_deliveries_total`.
const KINDS: [&str; 5] = ["first", "redelivered", "retried", "parked", RETURNED];
/// A delivery that was given back.
const RETURNED: &str = "returned";

/// The counters of consuming, before anything has happened.
pub(super) fn at_zero(metrics: &Metrics) {
    Metrics::at_zero(&metrics.deliveries, KINDS.map(|kind| [kind]));
    Metrics::at_zero(&metrics.broker_reconnects, Lost::CAUSES.map(|cause| [cause]));
}

impl Broker {
    /// Consumes until told to drain; whatever is lost is built anew.
    pub async fn consume(&self, mut intent: watch::Receiver<Intent>, deliveries: mpsc::Sender<Envelope>) {
        let backoff = Backoff::try_new(RECONNECT.0, RECONNECT.1).expect("two constants in order");
        let mut failures = 0;
        while *intent.borrow_and_update() != Intent::Drain {
            let lost = match self.consume_once(&mut intent, &deliveries, &mut failures).await {
                Ok(()) => break,
                Err(lost) => lost,
            };
            self.state.consuming.store(false, Ordering::Relaxed);
            self.metrics.broker_connected.set(0);
            self.metrics.broker_reconnects.with_label_values(&[lost.cause()]).inc();
            let delay = backoff.delay(failures, fastrand::f64(), None);
            failures += 1;
            warn!(cause = lost.cause(), "not consuming: {lost}; connecting again");
            tokio::select! {
                () = sleep(delay) => {}
                _ = intent.wait_for(|i| *i == Intent::Drain) => break,
            }
        }
        self.state.consuming.store(false, Ordering::Relaxed);
    }

    async fn consume_once(
        &self,
        intent: &mut watch::Receiver<Intent>,
        deliveries: &mpsc::Sender<Envelope>,
        failures: &mut u32,
    ) -> Result<(), Lost> {
        let connection = self.settings.address.connect(&self.settings.connection_name("consume")).await?;
        let (mut echo, shards) = connection.unless_lost(self.prepare(&connection)).await?;
        self.metrics.broker_connected.set(1);
        loop {
            if *intent.borrow_and_update() == Intent::Run {
                let beginning = Hearing::begin(self, &connection, &shards);
                let mut hearing = connection.unless_lost(beginning).await?;
                self.state.consuming.store(true, Ordering::Relaxed);
                *failures = 0;
                info!(queue = self.settings.names.jobs(), shards = shards.len(), "consuming");
                let heard = self.hear(&connection, &mut hearing, intent, deliveries, &mut echo).await;
                self.state.consuming.store(false, Ordering::Relaxed);
                heard?;
                hearing.end(self).await;
            }
            match *intent.borrow_and_update() {
                Intent::Drain => return Ok(()),
                Intent::Run => continue,
                Intent::Pause => {}
            }
            tokio::select! {
                lost = connection.lost() => return Err(lost.into()),
                _ = intent.changed() => {}
            }
        }
    }

    /// Makes sure of everything that consuming needs.
    async fn prepare(&self, connection: &Connection) -> Result<(Echo, Vec<Shard>), Lost> {
        let settings = &self.settings;
        topology::ensure(connection, &settings.names, &settings.tiers, settings.declare).await?;
        self.publisher.connection().await?;
        self.keep(connection);
        let echo = Echo::prepare(connection, settings, self.publisher.clone()).await?;
        Ok((echo, self.shards(connection).await?))
    }

    /// Keeps the connection for acks, and lets the one before go.
    fn keep(&self, connection: &Connection) {
        *held(&self.state.connection) = Some(connection.clone());
        held(&self.state.cancelled).clear();
    }

    /// Hands deliveries on until the intent changes.
    async fn hear(
        &self,
        connection: &Connection,
        hearing: &mut Hearing,
        intent: &mut watch::Receiver<Intent>,
        deliveries: &mpsc::Sender<Envelope>,
        echo: &mut Echo,
    ) -> Result<(), Lost> {
        loop {
            let (source, delivery) = tokio::select! {
                biased;
                _ = intent.changed() => return Ok(()),
                lost = connection.lost() => return Err(lost.into()),
                heard = echo.turn(&self.state.deaf) => { heard?; continue; }
                _ = hearing.rounds.tick(), if !hearing.shards.is_empty() => {
                    let round = self.go_round(connection, &mut hearing.shards).err_into::<Lost>();
                    connection.unless_lost(round).await?;
                    continue;
                }
                // The intake last: what is handed on must not keep away what can be done.
                Some((source, item)) = hearing.queues.next() => (source, item.ok_or(Lost::Cancelled)??),
                item = hearing.jobs.next() => (Source::Jobs, item.ok_or(Lost::Cancelled)??),
            };
            if let Source::Shard(shard) = source {
                self.note_delivery(shard);
            }
            let envelope = self.envelope(source, delivery);
            // The worker may be full for long: the echo, which holds a place among its publishes, goes on meanwhile.
            let permit = loop {
                tokio::select! {
                    biased;
                    permit = deliveries.reserve() => break permit.ok(),
                    _ = intent.changed() => break None,
                    lost = connection.lost() => return Err(lost.into()),
                    heard = echo.turn(&self.state.deaf) => heard?,
                }
            };
            let Some(permit) = permit else {
                envelope.settlement.give_back().await;
                return Ok(());
            };
            permit.send(envelope);
        }
    }

    fn envelope(&self, source: Source, delivery: Delivery) -> Envelope {
        let message = Message::new(delivery.data, &delivery.properties, delivery.redelivered);
        let journey = message.journey(now());
        let [first, redelivered, retried, parked, _] = KINDS;
        let kind = match (message.redelivered(), journey.attempt, journey.not_before) {
            (true, _, _) => redelivered,
            (false, 1.., _) => retried,
            (false, 0, Some(_)) => parked,
            (false, 0, None) => first,
        };
        self.metrics.deliveries.with_label_values(&[kind]).inc();
        let job = message.wrapped(|wrapping| self.parser.parse(message.body(), wrapping)).and_then(|job| {
            match message.reply_to().filter(|queue| self.settings.names.is_own(queue)) {
                Some(_) => Err(Malformed::new(
                    crate::domain::Reason::JobMalformed,
                    "reply-to: names one of the fleet's own queues",
                    Some(job.id),
                )),
                None => Ok(Box::new(job)),
            }
        });
        let settlement = Settlement { acker: delivery.acker, metrics: Arc::clone(&self.metrics) };
        Envelope { source, job, message, journey, received: Instant::now(), settlement }
    }
}

/// Now, by this machine's clock.
fn now() -> UnixMillis {
    let now = time::OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000_000;
    UnixMillis(i64::try_from(now).unwrap_or(i64::MAX))
}

type Tagged = Pin<Box<dyn Stream<Item = (Source, Option<lapin::Result<Delivery>>)> + Send>>;

/// The consumers of one intent to run.
struct Hearing {
    channel: Channel,
    jobs: Consumer,
    /// Every other queue's deliveries, and one `None` from each that ends.
    queues: SelectAll<Tagged>,
    /// All of them, to be cancelled.
    consumers: Vec<Consumer>,
    /// The shards among them; those that were not stirred for the longest time first.
    shards: VecDeque<Shard>,
    rounds: tokio::time::Interval,
}

impl Hearing {
    /// Prefetch counts for each consumer that begins after it was set.
    async fn begin(broker: &Broker, connection: &Connection, shards: &[Shard]) -> Result<Self, Lost> {
        let channel = connection.channel().await?;
        let (names, fleet) = (&broker.settings.names, broker.settings.fleet);
        answered(channel.basic_qos(GIVEN_UP_PREFETCH, BasicQosOptions::default())).await?;
        let mut others = vec![(Source::GivenUp, consumer(&channel, &names.given_up(), 0).await?)];
        answered(channel.basic_qos(fleet.prefetch, BasicQosOptions::default())).await?;
        let worker = &broker.settings.worker;
        let since = u32::try_from(now().0 / 1_000).unwrap_or_default();
        let begun = stream::iter(shards.to_vec()).map(|shard| {
            let (channel, queue, priority) =
                (channel.clone(), names.shard(shard), shard.priority(worker, since));
            async move {
                Ok::<_, lapin::Error>((Source::Shard(shard), consumer(&channel, &queue, priority).await?))
            }
        });
        others.extend(begun.buffered(topology::AT_ONCE).try_collect::<Vec<_>>().await?);
        answered(channel.basic_qos(broker.settings.prefetch, BasicQosOptions::default())).await?;
        let jobs = consumer(&channel, names.jobs(), 0).await?;
        let consumers = others.iter().map(|(_, consumer)| consumer.clone()).chain([jobs.clone()]).collect();
        let tagged = |(source, consumer): (Source, Consumer)| -> Tagged {
            Box::pin(consumer.map(Some).chain(once(ready(None))).map(move |item| (source, item)))
        };
        // A fleet that was started at once should not stir the same ones at once.
        let mut stirred: VecDeque<_> = shards.iter().copied().collect();
        stirred.rotate_left(fastrand::usize(..=shards.len()));
        let mut rounds = interval(ROUND_EVERY);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Self {
            channel,
            jobs,
            queues: others.into_iter().map(tagged).collect(),
            consumers,
            shards: stirred,
            rounds,
        })
    }

    /// Cancels, and gives back what the consumers hold. The channel stays open for the acks of what has begun.
    async fn end(self, broker: &Broker) {
        let Self { channel, consumers, .. } = self;
        held(&broker.state.cancelled).push(channel.clone());
        let channel = &channel;
        let emptied = consumers.into_iter().map(async |mut consumer| {
            channel.basic_cancel(consumer.tag(), BasicCancelOptions::default()).await?;
            while let Some(delivery) = consumer.next().await {
                let acker = delivery?.acker;
                (Settlement { acker, metrics: Arc::clone(&broker.metrics) }).give_back().await;
            }
            Ok::<_, lapin::Error>(())
        });
        match timeout(CANCEL_TIMEOUT, try_join_all(emptied)).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => {
                warn!(%error, "a consumer could not be cancelled; the broker gives its jobs to others");
            }
            Err(_) => warn!("a consumer did not end in time; the broker gives its jobs to others"),
        }
    }
}
