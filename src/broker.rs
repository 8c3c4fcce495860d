//! RabbitMQ: two connections, one that consumes and acks and one that publishes (a blocked connection writes nothing, acks
//! included), each made anew when it is lost.
//!
//! Promises: nothing that was taken is forgotten: a delivery is a [`Settlement`], which has to be given away; nothing that was
//! published counts until its own confirm. Never decides what becomes of a job. `lapin` stays in here.

mod connection;
mod consumer;
mod echo;
mod letters;
mod loss;
mod message;
mod publisher;
mod replies;
mod shards;
mod tls;
pub mod topology;

use std::{
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use self::connection::Connection;
pub use self::{
    connection::{Address, Auth, parse_uri},
    consumer::{Envelope, Intent, Settled, Settlement, Source},
    letters::{Letter, Letters},
    message::{Marks, Message},
    publisher::{EventAddress, PublishError, Publisher, Submission},
    replies::{Replies, Reply},
    shards::{Fleet, Mode, Wanted},
    tls::{ClientCertificate, Tls},
    topology::{Checked, Declare, Tier},
};
use crate::{
    contract::{Parser, names::Names},
    metrics::Metrics,
};

/// What the broker room needs to know.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where and as whom.
    pub address: Address,
    /// Queue names.
    pub names: Names,
    /// Declare what is missing, or nothing.
    pub declare: Declare,
    /// Jobs held unacked at most.
    pub prefetch: u16,
    /// How long a publish may take.
    pub confirm_timeout: Duration,
    /// Publishes in flight at most, each on a channel of its own.
    pub publish_channels: usize,
    /// Where result events go.
    pub results: Results,
    /// Wait tiers, shortest first.
    pub tiers: Vec<Tier>,
    /// The worker's name.
    pub worker: String,
    /// How mailboxes are shared out.
    pub fleet: Fleet,
}

/// Where result events go.
#[derive(Clone, Debug)]
pub struct Results {
    /// Exchange; empty: the default one.
    pub exchange: String,
    /// Routing key.
    pub routing_key: String,
    /// Whether a job's own `reply-to` is used.
    pub honour_reply_to: bool,
}

impl Settings {
    fn connection_name(&self, purpose: &str) -> String {
        format!("restore-worker {} {purpose}", self.worker)
    }

    /// CloudEvents `source` of this worker's events.
    fn source(&self) -> String {
        format!("/restore-worker/{}", self.worker)
    }
}

/// Why the broker cannot be used.
#[derive(Clone, Debug, thiserror::Error)]
pub enum BrokerError {
    /// Credentials, vhost or permissions: waiting does not help.
    #[error("the broker refuses us: {0}")]
    Refused(String),
    /// Away, or closing connections.
    #[error("the broker is unavailable: {0}")]
    Unavailable(String),
    /// A queue or exchange is missing, or is of another kind.
    #[error("{kind} {name} cannot be used: {why}")]
    Topology {
        /// Queue or exchange.
        kind: &'static str,
        /// Its name.
        name: String,
        /// The broker's words.
        why: String,
    },
}

const MISSING: &str = "it is missing (run declares what is missing, with broker.topology: declare)";

impl BrokerError {
    /// For commands: a queue that our user may not use is a refusal, like a wrong password.
    fn queue(name: &str, error: lapin::Error) -> Self {
        match amqp_code(&error) {
            Some(403) => Self::Refused(error.to_string()),
            Some(_) | None => Self::topology("queue", name, error),
        }
    }

    fn topology(kind: &'static str, name: &str, error: lapin::Error) -> Self {
        match amqp_code(&error) {
            Some(404) => Self::Topology { kind, name: name.into(), why: MISSING.into() },
            Some(403 | 406) => Self::Topology { kind, name: name.into(), why: error.to_string() },
            Some(_) | None => error.into(),
        }
    }
}

impl From<lapin::Error> for BrokerError {
    fn from(error: lapin::Error) -> Self {
        match amqp_code(&error) {
            // ACCESS_REFUSED and NOT_ALLOWED (no such vhost, or not for this user).
            Some(403 | 530) => Self::Refused(error.to_string()),
            Some(_) | None => Self::Unavailable(error.to_string()),
        }
    }
}

/// The reply code that the broker closed a channel or connection with (AMQP 0-9-1, section 1.2).
fn amqp_code(error: &lapin::Error) -> Option<u16> {
    if let lapin::ErrorKind::ProtocolError(error) = error.kind() { Some(error.get_id()) } else { None }
}

/// A lock that is held for an instant only.
fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How long the broker may take to answer one request.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// The answer to a request, or an error like a lost connection's ([`loss`] says why there may be none).
async fn answered<T>(request: impl Future<Output = lapin::Result<T>>) -> lapin::Result<T> {
    tokio::time::timeout(ANSWER_TIMEOUT, request).await.unwrap_or_else(|_| {
        let why = format!("no answer within {} s", ANSWER_TIMEOUT.as_secs());
        Err(io::Error::new(io::ErrorKind::TimedOut, why).into())
    })
}

/// The broker, as the worker uses it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Broker {
    settings: Arc<Settings>,
    metrics: Arc<Metrics>,
    parser: Arc<Parser>,
    publisher: Publisher,
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    consuming: AtomicBool,
    deaf: AtomicBool,
    /// Kept until [`Broker::close`], since acks go over it while the worker drains.
    connection: Mutex<Option<Connection>>,
    /// Channels whose consumers were cancelled: dropping one closes it and gives back what is still being worked on.
    cancelled: Mutex<Vec<lapin::Channel>>,
    fleet: Mutex<shards::Seen>,
}

impl Broker {
    /// A broker that is not connected yet.
    #[must_use]
    pub fn new(settings: Settings, parser: Parser, metrics: Arc<Metrics>) -> Self {
        let settings = Arc::new(settings);
        consumer::at_zero(&metrics);
        publisher::at_zero(&metrics);
        Self {
            publisher: Publisher::new(Arc::clone(&settings), Arc::clone(&metrics)),
            settings,
            metrics,
            parser: Arc::new(parser),
            state: Arc::default(),
        }
    }

    /// Connects both connections once and makes sure of the topology: what a start must know before it goes on.
    ///
    /// # Errors
    /// [`BrokerError`].
    pub async fn open(&self) -> Result<(), BrokerError> {
        let connection = self.publisher.connection().await?;
        topology::ensure(&connection, &self.settings.names, &self.settings.tiers, self.settings.declare)
            .await?;
        self.shards(&connection).await.map(drop)
    }

    /// Connects, and makes sure of nothing.
    ///
    /// # Errors
    /// [`BrokerError`].
    pub async fn connect(&self) -> Result<(), BrokerError> {
        self.publisher.connection().await.map(drop)
    }

    /// Looks whether the topology is as it must be, without declaring anything.
    ///
    /// # Errors
    /// [`BrokerError`]; also for a queue with other arguments.
    pub async fn check(&self) -> Result<Checked, BrokerError> {
        let connection = self.publisher.connection().await?;
        let fleet = self.settings.fleet;
        let shards = (fleet.mode == Wanted::Is(Mode::Sharded)).then_some(fleet.shards);
        let Settings { names, tiers, declare, .. } = &*self.settings;
        topology::check(&connection, names, tiers, shards, *declare).await
    }

    /// What publishes.
    #[must_use]
    pub fn publisher(&self) -> &Publisher {
        &self.publisher
    }

    /// Queue names.
    #[must_use]
    pub fn names(&self) -> &Names {
        &self.settings.names
    }

    /// Wait tiers, shortest first.
    #[must_use]
    pub fn tiers(&self) -> &[Tier] {
        &self.settings.tiers
    }

    /// Where result events go.
    #[must_use]
    pub fn results(&self) -> &Results {
        &self.settings.results
    }

    /// The job's own reply queue, where it may be used. One of the fleet's own never is: an event would be taken for a job.
    #[must_use]
    pub fn reply_queue<'a>(&self, message: &'a Message) -> Option<&'a str> {
        let honoured = self.settings.results.honour_reply_to;
        message.reply_to().filter(|queue| honoured && !self.settings.names.is_own(queue))
    }

    /// Whether jobs are being consumed.
    #[must_use]
    pub fn is_consuming(&self) -> bool {
        self.state.consuming.load(Ordering::Relaxed)
    }

    /// Whether the consuming channel stands but hears nothing.
    #[must_use]
    pub fn is_deaf(&self) -> bool {
        self.state.deaf.load(Ordering::Relaxed)
    }

    /// Closes both connections: after everything has been settled and told.
    pub async fn close(&self) {
        let connection = held(&self.state.connection).take();
        if let Some(connection) = connection {
            connection.close().await;
        }
        self.publisher.close().await;
    }
}
