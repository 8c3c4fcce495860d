//! The emitter of a campaign: publishes until the broker has taken a job, and hears every event, however often the broker goes
//! away meanwhile.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use futures_util::StreamExt as _;
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties,
    options::{
        BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions,
    },
    types::FieldTable,
};
use serde_json::Value;
use time::OffsetDateTime;
use tokio::time::{sleep, timeout};

use super::{
    jobs::{Events, Job, Publication, Told},
    strikes::Strikes,
};

/// Before asking again a broker that is away.
const AGAIN: Duration = Duration::from_millis(200);
/// How long a connection or a confirm may take.
const LIMIT: Duration = Duration::from_secs(5);
/// Where half of the jobs want their events: a classic queue, which gives an event away before it confirms it.
const REPLIES: &str = "campaign.replies";

/// Jobs that the broker has taken, and what was told of them.
#[derive(Debug, Default)]
pub(super) struct Book(Mutex<Pages>);

#[derive(Debug, Default)]
struct Pages {
    jobs: BTreeMap<String, Job>,
    open: BTreeSet<String>,
    events: Events,
    odd: Vec<String>,
    /// The broker is back since then, and nothing that ended later was told yet.
    back: Option<OffsetDateTime>,
    first_results: Vec<Duration>,
}

impl Book {
    fn lock(&self) -> MutexGuard<'_, Pages> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn accepted(&self, job: Job) {
        let mut pages = self.lock();
        if !pages.events.contains_key(&job.id) {
            pages.open.insert(job.id.clone());
        }
        pages.jobs.insert(job.id.clone(), job);
    }

    fn told(&self, job: String, told: Told) {
        let mut pages = self.lock();
        pages.open.remove(&job);
        if let (Some(back), Some(completed)) = (pages.back, told.completed_at)
            && let Ok(after) = Duration::try_from(completed - back)
        {
            pages.back = None;
            pages.first_results.push(after);
        }
        pages.events.entry(job).or_default().push(told);
    }

    /// Jobs accepted and not told yet.
    pub(super) fn open(&self) -> Vec<String> {
        self.lock().open.iter().cloned().collect()
    }

    /// Jobs accepted.
    pub(super) fn jobs(&self) -> BTreeMap<String, Job> {
        self.lock().jobs.clone()
    }

    /// Everything told.
    pub(super) fn events(&self) -> Events {
        self.lock().events.clone()
    }

    /// The broker answers again, from now on.
    pub(super) fn broker_back(&self) {
        self.lock().back = Some(OffsetDateTime::now_utc());
    }

    /// How long after the broker was back the first job ended that was told, once for each restart, the shortest first.
    pub(super) fn first_results(&self) -> Vec<Duration> {
        let mut waits = self.lock().first_results.clone();
        waits.sort();
        waits
    }

    /// Messages that are no events.
    pub(super) fn odd(&self) -> Vec<String> {
        self.lock().odd.clone()
    }
}

/// Publishes.
pub(super) struct Publisher {
    uri: String,
    book: Arc<Book>,
    open: Option<(Connection, Channel)>,
}

impl Publisher {
    pub(super) fn new(uri: &str, book: Arc<Book>) -> Self {
        Self { uri: uri.to_owned(), book, open: None }
    }

    /// How many jobs are under way.
    pub(super) fn open_jobs(&self) -> usize {
        self.book.lock().open.len()
    }

    /// Publishes until it is confirmed. A publication whose confirm was lost is made again, as an emitter does.
    pub(super) async fn publish(&mut self, publication: &Publication) {
        // It may be told before its confirm comes.
        let job = publication.job.clone();
        while !matches!(timeout(LIMIT, self.once(publication)).await, Ok(Ok(()))) {
            self.open = None;
            sleep(AGAIN).await;
        }
        self.book.accepted(job);
    }

    async fn once(&mut self, publication: &Publication) -> Result<()> {
        if self.open.is_none() {
            let connection = Connection::connect(&self.uri, ConnectionProperties::default()).await?;
            let channel = connection.create_channel().await?;
            channel.confirm_select(ConfirmSelectOptions::default()).await?;
            self.open = Some((connection, channel));
        }
        let (_, channel) = self.open.as_ref().context("opened above")?;
        let mut properties =
            BasicProperties::default().with_content_type("application/json".into()).with_delivery_mode(2);
        if publication.own_reply {
            properties = properties.with_reply_to(REPLIES.into());
        }
        let options = BasicPublishOptions { mandatory: true, ..Default::default() };
        let body = publication.body.to_string();
        let confirm = channel
            .basic_publish("".into(), "restore.jobs".into(), options, body.as_bytes(), properties)
            .await?
            .await?;
        match confirm {
            Confirmation::Ack(None) => Ok(()),
            other @ (Confirmation::Ack(Some(_)) | Confirmation::Nack(_) | Confirmation::NotRequested) => {
                bail!("the broker did not take the job: {other:?}")
            }
        }
    }
}

/// Hears the events of both queues until it is dropped.
pub(super) async fn listen(uri: String, book: Arc<Book>, strikes: Arc<Strikes>) {
    tokio::join!(hear(&uri, "restore.results", &book, &strikes), hear(&uri, REPLIES, &book, &strikes));
}

async fn hear(uri: &str, queue: &str, book: &Book, strikes: &Strikes) {
    loop {
        if let Err(error) = hear_once(uri, queue, book, strikes).await {
            tracing::debug!(%error, queue, "events are not heard for a moment");
        }
        sleep(AGAIN).await;
    }
}

async fn hear_once(uri: &str, queue: &str, book: &Book, strikes: &Strikes) -> Result<()> {
    let connect = async {
        let connection = Connection::connect(uri, ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        if queue == REPLIES {
            let options = QueueDeclareOptions { durable: true, ..Default::default() };
            channel.queue_declare(queue.into(), options, FieldTable::default()).await?;
        }
        let events = channel
            .basic_consume(queue.into(), "".into(), BasicConsumeOptions::default(), FieldTable::default())
            .await?;
        anyhow::Ok((connection, events))
    };
    let (_connection, mut events) = timeout(LIMIT, connect).await??;
    while let Some(event) = events.next().await {
        let event = event?;
        let read =
            serde_json::from_slice::<Value>(&event.data).map_err(Into::into).and_then(|e| Told::read(&e));
        match read {
            Ok((job, worker, told)) => {
                // First of all: its ack is about to be sent.
                strikes.told(&job, &worker);
                book.told(job, told);
            }
            Err(error) => book.lock().odd.push(format!("{error:#}")),
        }
        event.acker.ack(BasicAckOptions::default()).await?;
    }
    bail!("the consumer has ended")
}
