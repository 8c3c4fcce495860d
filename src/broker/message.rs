//! A message as the worker passes it on: body untouched, properties by an allow-list, headers of our own written anew.

use std::{sync::Arc, time::Duration};

use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable, LongString, ShortString},
};

use crate::{
    contract::{
        Wrapping,
        names::{APP_ID, header},
    },
    domain::{ChangeKey, Imported, ItemId, Journey, Reason, UnixMillis},
};

/// A message that was taken from the broker. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Message(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Of its own length: the room that was left when its frames were gathered is given back.
    body: Box<[u8]>,
    /// What may be copied, and nothing else.
    kept: BasicProperties,
    user_id: Option<String>,
    delivery_count: u64,
    expired: bool,
    redelivered: bool,
}

/// What a letter says beside its job.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// `restore-reason`.
    pub reason: Option<String>,
    /// `restore-detail`.
    pub detail: Option<String>,
    /// `restore-claim`: the claim of the unknown record behind it.
    pub claim: Option<String>,
    /// `restore-first-received`.
    pub first_received: Option<UnixMillis>,
}

impl Message {
    /// Takes a message apart; what is not on the allow-list is forgotten.
    pub(super) fn new(body: Vec<u8>, properties: &BasicProperties, redelivered: bool) -> Self {
        let headers = properties.headers().as_ref();
        Self(Arc::new(Inner {
            body: body.into_boxed_slice(),
            kept: keep(properties),
            user_id: properties.user_id().as_ref().map(|id| id.as_str().to_owned()),
            delivery_count: headers.and_then(|h| integer(h, "x-delivery-count")).unwrap_or(0),
            expired: headers
                .and_then(|h| text(h, "x-first-death-reason"))
                .is_some_and(|reason| reason == "expired"),
            redelivered,
        }))
    }

    /// The body, as it came.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.0.body
    }

    /// How often the broker counts this message as given back. A suspicion, never a proof: returns, restarts and updates raise it.
    #[must_use]
    pub fn delivery_count(&self) -> u64 {
        self.0.delivery_count
    }

    /// Whether the broker says that it may have delivered this message before.
    #[must_use]
    pub fn redelivered(&self) -> bool {
        self.0.redelivered || self.0.delivery_count > 0
    }

    /// Whether the broker dead-lettered it because a time to live was over.
    #[must_use]
    pub fn expired(&self) -> bool {
        self.0.expired
    }

    /// The higher the sooner, within its lane.
    #[must_use]
    pub fn priority(&self) -> u8 {
        self.0.kept.priority().unwrap_or(0)
    }

    /// `reply-to`.
    #[must_use]
    pub fn reply_to(&self) -> Option<&str> {
        self.0.kept.reply_to().as_ref().map(ShortString::as_str).filter(|queue| !queue.is_empty())
    }

    /// `correlation-id`, else `message-id`.
    #[must_use]
    pub fn correlation_id(&self) -> Option<&str> {
        let text = |id: &'_ Option<ShortString>| id.as_ref().is_some_and(|id| !id.as_str().is_empty());
        let kept = &self.0.kept;
        [kept.correlation_id(), kept.message_id()]
            .into_iter()
            .find(|id| text(id))?
            .as_ref()
            .map(ShortString::as_str)
    }

    /// W3C `traceparent`.
    #[must_use]
    pub fn traceparent(&self) -> Option<String> {
        self.0.kept.headers().as_ref().and_then(|headers| text(headers, header::TRACE[0]))
    }

    /// W3C `tracestate`.
    #[must_use]
    pub fn tracestate(&self) -> Option<String> {
        self.0.kept.headers().as_ref().and_then(|headers| text(headers, header::TRACE[1]))
    }

    /// A message that nobody sent: for an event about a job of which only the id is known.
    #[must_use]
    pub fn none() -> Self {
        Self::new(Vec::new(), &BasicProperties::default(), false)
    }

    /// What a dead letter says beside its job.
    pub(super) fn marks(&self) -> Marks {
        let headers = self.0.kept.headers().as_ref();
        let word = |name| headers.and_then(|h| text(h, name));
        Marks {
            reason: word(header::REASON),
            detail: word(header::DETAIL),
            claim: word(header::CLAIM),
            first_received: headers
                .and_then(|h| integer(h, header::FIRST_RECEIVED))
                .and_then(|n| i64::try_from(n).ok())
                .map(UnixMillis),
        }
    }

    /// How the job is wrapped.
    pub(super) fn wrapped<T>(&self, read: impl FnOnce(Wrapping<'_>) -> T) -> T {
        let headers = self.0.kept.headers().as_ref();
        let attribute = |name: &str| {
            header::CLOUD_EVENTS.iter().find_map(|prefix| text(headers?, &format!("{prefix}{name}")))
        };
        let cloud_event_type = attribute("specversion").and_then(|_| attribute("type"));
        read(Wrapping {
            content_type: self.0.kept.content_type().as_ref().map(ShortString::as_str),
            kind: self.0.kept.kind().as_ref().map(ShortString::as_str),
            cloud_event_type: cloud_event_type.as_deref(),
        })
    }

    /// The job's way so far, as our own headers tell it. A header that makes no sense counts as absent.
    #[must_use]
    pub fn journey(&self, now: UnixMillis) -> Journey {
        let headers = self.0.kept.headers().as_ref();
        let number = |name| headers.and_then(|h| integer(h, name));
        let moment = |name| number(name).and_then(|n| i64::try_from(n).ok()).map(UnixMillis);
        let word = |name| headers.and_then(|h| text(h, name)).filter(|text| text.len() <= 255);
        let small = |name| number(name).map_or(0, |n| u32::try_from(n).unwrap_or(u32::MAX));
        Journey {
            attempt: small(header::ATTEMPT),
            parked: Duration::from_millis(number(header::PARKED).unwrap_or(0)),
            not_before: moment(header::NOT_BEFORE),
            turn: moment(header::TURN),
            first_received: moment(header::FIRST_RECEIVED).filter(|t| *t <= now).unwrap_or(now),
            replayed_at: moment(header::REPLAYED_AT).filter(|t| *t <= now),
            replay: small(header::REPLAY),
            submitted_by: self.0.user_id.clone().or_else(|| word(header::SUBMITTED_BY)),
            force: word(header::FORCE),
            claim: word(header::CLAIM),
            imported: headers.and_then(|h| text(h, header::IMPORTED)).and_then(|t| parse_imported(&t)),
        }
    }

    /// The properties of a copy that goes on as a job.
    pub(super) fn copy(&self, journey: &Journey) -> BasicProperties {
        let mut headers = self.foreign_headers();
        write_journey(&mut headers, journey);
        self.persistent(headers)
    }

    /// The properties of a dead letter.
    pub(super) fn letter(
        &self,
        journey: &Journey,
        reason: Reason,
        detail: &str,
        claim: Option<&str>,
    ) -> BasicProperties {
        let mut headers = self.foreign_headers();
        // A letter waits for nobody; what it has spent is shown, what it waited for is over.
        write_journey(
            &mut headers,
            &Journey { not_before: None, turn: None, claim: None, ..journey.clone() },
        );
        put_text(&mut headers, header::REASON, reason.as_str());
        put_text(&mut headers, header::DETAIL, detail);
        if let Some(claim) = claim {
            put_text(&mut headers, header::CLAIM, claim);
        }
        self.persistent(headers)
    }

    /// Trace context, for the job's event.
    pub(super) fn trace_headers(&self) -> FieldTable {
        let mut headers = FieldTable::default();
        for (name, value) in self.0.kept.headers().iter().flatten() {
            if header::TRACE.contains(&name.as_str()) {
                headers.insert(name.clone(), value.clone());
            }
        }
        headers
    }

    /// Headers that were written by others and may go on.
    fn foreign_headers(&self) -> FieldTable {
        let mut headers = FieldTable::default();
        for (name, value) in
            self.0.kept.headers().iter().flatten().filter(|(name, _)| is_foreign(name.as_str()))
        {
            headers.insert(name.clone(), value.clone());
        }
        headers
    }

    fn persistent(&self, headers: FieldTable) -> BasicProperties {
        self.0.kept.clone().with_headers(headers).with_delivery_mode(PERSISTENT).with_app_id(short(APP_ID))
    }
}

/// AMQP's delivery mode of a message that survives a restart.
pub(super) const PERSISTENT: u8 = 2;

/// A name of our own, known to be short.
pub(super) fn short(text: &'static str) -> ShortString {
    ShortString::from(text)
}

/// A text that may be too long for AMQP's short string: then cut.
pub(super) fn cut(text: &str) -> ShortString {
    let mut end = text.len().min(255);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    ShortString::try_new(&text[..end]).unwrap_or_default()
}

/// Puts a text header.
pub(super) fn put_text(headers: &mut FieldTable, name: &'static str, value: &str) {
    headers.insert(short(name), AMQPValue::LongString(LongString::from(value.as_bytes())));
}

fn put_number(headers: &mut FieldTable, name: &'static str, value: i64) {
    headers.insert(short(name), AMQPValue::LongLongInt(value));
}

fn write_journey(headers: &mut FieldTable, journey: &Journey) {
    put_number(headers, header::ATTEMPT, i64::from(journey.attempt));
    put_number(headers, header::PARKED, i64::try_from(journey.parked.as_millis()).unwrap_or(i64::MAX));
    put_number(headers, header::FIRST_RECEIVED, journey.first_received.0);
    put_number(headers, header::REPLAY, i64::from(journey.replay));
    for (name, moment) in [
        (header::NOT_BEFORE, journey.not_before),
        (header::TURN, journey.turn),
        (header::REPLAYED_AT, journey.replayed_at),
    ] {
        if let Some(moment) = moment {
            put_number(headers, name, moment.0);
        }
    }
    if let Some(user) = &journey.submitted_by {
        put_text(headers, header::SUBMITTED_BY, user);
    }
    if let Some(force) = &journey.force {
        put_text(headers, header::FORCE, force);
    }
    if let Some(claim) = &journey.claim {
        put_text(headers, header::CLAIM, claim);
    }
    if let Some(imported) = &journey.imported {
        put_text(headers, header::IMPORTED, &format!("{},{}", imported.item_id, imported.change_key));
    }
}

fn parse_imported(text: &str) -> Option<Imported> {
    let (item_id, change_key) = text.split_once(',')?;
    Some(Imported { item_id: ItemId::parse(item_id).ok()?, change_key: ChangeKey::parse(change_key).ok()? })
}

/// Trace and CloudEvents headers.
fn is_foreign(name: &str) -> bool {
    header::TRACE.contains(&name) || header::CLOUD_EVENTS.iter().any(|prefix| name.starts_with(prefix))
}

/// The allow-list: content-type, type, message-id, correlation-id, reply-to, timestamp, priority; trace and CloudEvents
/// headers and our own. Never `user-id` (the broker refuses another's), `expiration`, `CC`, `BCC`, `x-*`.
fn keep(from: &BasicProperties) -> BasicProperties {
    let mut to = BasicProperties::default();
    macro_rules! copy {
        ($($get:ident $with:ident),*) => { $(if let Some(value) = from.$get() { to = to.$with(value.clone()); })* };
    }
    copy!(
        content_type with_content_type, kind with_type, message_id with_message_id,
        correlation_id with_correlation_id, reply_to with_reply_to, timestamp with_timestamp, priority with_priority
    );
    let mut headers = FieldTable::default();
    for (name, value) in from.headers().iter().flatten() {
        if is_foreign(name.as_str()) || name.as_str().starts_with("restore-") {
            headers.insert(name.clone(), value.clone());
        }
    }
    to.with_headers(headers)
}

#[expect(clippy::wildcard_enum_match_arm, reason = "every other type is no text")]
/// A text header, whatever string type it came as.
fn text(headers: &FieldTable, name: &str) -> Option<String> {
    match headers.inner().get(name)? {
        AMQPValue::LongString(text) => String::from_utf8(text.as_bytes().to_vec()).ok(),
        AMQPValue::ShortString(text) => Some(text.as_str().to_owned()),
        _ => None,
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "every other type is no integer")]
/// A number header, whatever integer type it came as; brokers and shovels differ. Negative ones make no sense here.
fn integer(headers: &FieldTable, name: &str) -> Option<u64> {
    match headers.inner().get(name)? {
        AMQPValue::ShortShortInt(n) => u64::try_from(*n).ok(),
        AMQPValue::ShortShortUInt(n) => Some(u64::from(*n)),
        AMQPValue::ShortInt(n) => u64::try_from(*n).ok(),
        AMQPValue::ShortUInt(n) => Some(u64::from(*n)),
        AMQPValue::LongInt(n) => u64::try_from(*n).ok(),
        AMQPValue::LongUInt(n) => Some(u64::from(*n)),
        AMQPValue::LongLongInt(n) => u64::try_from(*n).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hostile() -> BasicProperties {
        let mut headers = FieldTable::default();
        for name in ["CC", "BCC", "x-death", "traceparent", "cloudEvents_id", "anything"] {
            put_text(&mut headers, name, "value");
        }
        headers.insert(short("x-delivery-count"), AMQPValue::LongLongInt(7));
        headers.insert(short(header::ATTEMPT), AMQPValue::LongInt(3));
        headers.insert(short(header::PARKED), AMQPValue::LongString("nonsense".into()));
        headers.insert(short(header::FIRST_RECEIVED), AMQPValue::LongLongInt(i64::MAX));
        BasicProperties::default()
            .with_headers(headers)
            .with_user_id(short("anna"))
            .with_expiration(short("1"))
            .with_cluster_id(short("x"))
            .with_priority(5)
            .with_reply_to(short("replies"))
    }

    #[test]
    fn a_copy_holds_the_allow_list_and_nothing_else() {
        let message = Message::new(b"body".to_vec(), &hostile(), false);
        let now = UnixMillis(1_000);
        let journey = message.journey(now);
        assert_eq!((journey.attempt, journey.parked, journey.first_received), (3, Duration::ZERO, now));
        assert_eq!((journey.submitted_by.as_deref(), message.delivery_count()), (Some("anna"), 7));
        let copy = message.copy(&journey);
        assert_eq!((copy.user_id(), copy.expiration(), copy.cluster_id()), (&None, &None, &None));
        assert_eq!(
            (copy.priority(), copy.reply_to().as_ref().map(ShortString::as_str)),
            (&Some(5), Some("replies"))
        );
        let names: Vec<_> =
            copy.headers().iter().flatten().map(|(name, _)| name.as_str().to_owned()).collect();
        assert_eq!(
            names,
            [
                "cloudEvents_id",
                "restore-attempt",
                "restore-first-received",
                "restore-parked",
                "restore-replay",
                "restore-submitted-by",
                "traceparent"
            ]
        );
    }

    #[test]
    fn a_journey_survives_its_hops() {
        let journey = Journey {
            attempt: 2,
            parked: Duration::from_millis(1_500),
            not_before: Some(UnixMillis(9_000)),
            turn: Some(UnixMillis(9_500)),
            first_received: UnixMillis(7_000),
            replayed_at: Some(UnixMillis(8_000)),
            replay: 1,
            submitted_by: Some("anna".into()),
            force: Some("claim".into()),
            claim: Some("claim".into()),
            imported: parse_imported("item,key"),
        };
        let first = Message::new(Vec::new(), &BasicProperties::default(), false);
        let second = Message::new(Vec::new(), &first.copy(&journey), false);
        assert_eq!(second.journey(UnixMillis(10_000)), journey);
    }
}
