//! The dead-letter queue as a person goes through it: letters are held unacked, and what is not settled goes back to its place.
//!
//! Promises: takes no more letters than lay there at the start, so that a job that was sent back and failed again is not met
//! twice. Keeps eight bytes for each letter that it hands out, so that they go back in their order; the broker keeps the rest.

use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use lapin::{
    Acker, Channel,
    options::{BasicAckOptions, BasicGetOptions, BasicNackOptions, QueueDeclareOptions},
    types::FieldTable,
};
use tokio::time::{sleep, timeout};

use super::{Broker, BrokerError, Marks, Message, answered, held, message::cut, topology::close};
use crate::{contract::Malformed, domain::RestoreJob};

/// A dead letter, held unacked. Dropping it leaves it in its queue.
#[derive(Debug)]
pub struct Letter {
    /// The message.
    pub message: Message,
    /// The job in it, or why it is none.
    pub job: Result<Box<RestoreJob>, Malformed>,
    /// Why it lies there.
    pub marks: Marks,
    acker: Acker,
    tag: u64,
    held: Held,
}

/// The delivery tags of the letters that were handed out and not removed, in their order.
#[derive(Clone, Debug, Default)]
struct Held(Arc<Mutex<Vec<u64>>>);

impl Held {
    fn tags(&self) -> MutexGuard<'_, Vec<u64>> {
        held(&self.0)
    }

    fn remove(&self, tag: u64) {
        let mut tags = self.tags();
        if let Ok(place) = tags.binary_search(&tag) {
            tags.remove(place);
        }
    }
}

impl Letter {
    /// Takes the letter out of its queue.
    ///
    /// # Errors
    /// [`BrokerError::Unavailable`]: the connection is lost, and the letter lies in its queue as before.
    pub async fn remove(&self) -> Result<(), BrokerError> {
        match answered(self.acker.ack(BasicAckOptions::default())).await {
            Ok(true) => {
                self.held.remove(self.tag);
                Ok(())
            }
            Ok(false) => Err(BrokerError::Unavailable("the connection was lost".into())),
            Err(error) => Err(error.into()),
        }
    }
}

/// How long letters that were given back are waited for.
const BACK_AGAIN: Duration = Duration::from_secs(5);
/// Between two looks whether they are there.
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// Letters given back in one word.
const TOGETHER: usize = 16;

/// The letters that lay in the queue at the start.
#[derive(Debug)]
pub struct Letters {
    broker: Broker,
    channel: Channel,
    left: u32,
    held: Held,
}

impl Broker {
    /// Opens the dead-letter queue.
    ///
    /// # Errors
    /// [`BrokerError`].
    pub async fn letters(&self) -> Result<Letters, BrokerError> {
        let channel = self.publisher().connection().await?.channel().await?;
        let queue = self.names().dead_letters();
        let passive = QueueDeclareOptions { passive: true, durable: true, ..Default::default() };
        let declared = answered(channel.queue_declare(cut(queue), passive, FieldTable::default()))
            .await
            .map_err(|e| BrokerError::queue(queue, e))?;
        Ok(Letters { broker: self.clone(), channel, left: declared.message_count(), held: Held::default() })
    }
}

impl Letters {
    /// How many of them have not been looked at.
    #[must_use]
    pub fn left(&self) -> u32 {
        self.left
    }

    /// The next one; `None` when every letter of the start was handed out.
    ///
    /// # Errors
    /// [`BrokerError`].
    pub async fn next(&mut self) -> Result<Option<Letter>, BrokerError> {
        if self.left == 0 {
            return Ok(None);
        }
        let queue = self.broker.names().dead_letters();
        let got = answered(self.channel.basic_get(cut(queue), BasicGetOptions { no_ack: false }))
            .await
            .map_err(|e| BrokerError::queue(queue, e))?;
        let Some(got) = got else {
            self.left = 0;
            return Ok(None);
        };
        self.left -= 1;
        let message = Message::new(got.delivery.data, &got.delivery.properties, got.delivery.redelivered);
        let job =
            message.wrapped(|wrapping| self.broker.parser.parse(message.body(), wrapping)).map(Box::new);
        let (acker, tag) = (got.delivery.acker, got.delivery.delivery_tag);
        self.held.tags().push(tag);
        Ok(Some(Letter { marks: message.marks(), job, message, acker, tag, held: self.held.clone() }))
    }

    /// Lets go of everything that was not removed: it goes back to its place. What was removed is gone for good after this.
    pub async fn end(self) {
        // A few in one word, and the next when they are back: a channel that only closes gives them back in an order of the
        // broker's own (seen on 3.10), and beyond 32 that are on their way a quorum queue turns the rest round (seen on 3.10).
        let tags = self.held.tags().clone();
        let mut back = 0;
        for some in tags.chunks(TOGETHER) {
            let Some(last) = some.last() else { break };
            let requeue = BasicNackOptions { requeue: true, multiple: true };
            if let Err(error) = answered(self.channel.basic_nack(*last, requeue)).await {
                tracing::debug!(%error, "the connection was lost: the broker takes the letters back");
                break;
            }
            back += u32::try_from(some.len()).unwrap_or(u32::MAX);
            if timeout(BACK_AGAIN, self.back_again(back)).await.is_err() {
                tracing::debug!("somebody else takes letters, or the broker is slow to put ours back");
                break;
            }
        }
        close(&self.channel).await;
    }

    /// A nack has no answer, and a quorum queue takes letters back some time after it: who looks next would see a part of them.
    async fn back_again(&self, count: u32) {
        let passive = QueueDeclareOptions { passive: true, durable: true, ..Default::default() };
        let queue = self.broker.names().dead_letters();
        while let Ok(seen) =
            answered(self.channel.queue_declare(cut(queue), passive, FieldTable::default())).await
        {
            if seen.message_count() >= count {
                return;
            }
            sleep(LOOK_AGAIN).await;
        }
    }
}
