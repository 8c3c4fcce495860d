//! Import sessions: one per tenant, mailbox and version, for many items and folders; opened once for many waiters,
//! renewed before its end.
//!
//! The import URL is opaque and a credential: sent byte for byte, shown nowhere.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use moka::{future::Cache, ops::compute::Op};
use reqwest::Url;
use uuid::Uuid;

use super::{
    client,
    fence::Boottime,
    wire::{self, Hints},
};
use crate::domain::{Dependency, Fault, GraphVersion, MailboxId, Reason, RestoreError, TenantId, UnixMillis};

/// Sessions kept; the one used longest ago goes first.
const CAPACITY: u64 = 10_000;
/// A session that nobody asks for is forgotten.
const IDLE: Duration = Duration::from_hours(1);
/// How long a session is believed in when its end is missing or nonsense. Practitioners assume 5 to 45 minutes.
const FALLBACK_LIFETIME: Duration = Duration::from_mins(5);
/// Longest lifetime that is believed.
const MAX_LIFETIME: Duration = Duration::from_hours(24);

/// What a session is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) tenant: TenantId,
    pub(super) mailbox: MailboxId,
    pub(super) version: GraphVersion,
}

/// An import session of one mailbox. Cheap to clone; `Debug` shows neither URL nor token.
#[derive(Clone)]
pub struct ImportSession {
    opened: Arc<Opened>,
    fresh: bool,
}

struct Opened {
    id: Uuid,
    key: Key,
    url: Url,
    /// When it is no longer handed out.
    renew_at: Boottime,
    request_id: Option<String>,
}

impl ImportSession {
    /// The tenant.
    #[must_use]
    pub fn tenant(&self) -> &TenantId {
        &self.opened.key.tenant
    }

    /// The mailbox.
    #[must_use]
    pub fn mailbox(&self) -> &MailboxId {
        &self.opened.key.mailbox
    }

    /// The version of Graph that opened it.
    #[must_use]
    pub fn version(&self) -> GraphVersion {
        self.opened.key.version
    }

    /// Whether it was opened for this very call of `session`: a refusal of it is the item's, not the session's.
    #[must_use]
    pub const fn is_fresh(&self) -> bool {
        self.fresh
    }

    /// Request id of the answer that opened it.
    #[must_use]
    pub fn request_id(&self) -> Option<&str> {
        self.opened.request_id.as_deref()
    }

    pub(super) fn url(&self) -> &Url {
        &self.opened.url
    }

    pub(super) fn new(
        key: Key,
        url: Url,
        lifetime: Duration,
        margin: Duration,
        request_id: Option<String>,
    ) -> Self {
        // A margin longer than half of a short life would open a session for each item.
        let usable = lifetime.saturating_sub(margin.min(lifetime / 2));
        let renew_at = Boottime::now().plus(usable);
        let opened = Opened { id: Uuid::new_v4(), key, url, renew_at, request_id };
        Self { opened: Arc::new(opened), fresh: true }
    }

    fn is_over(&self) -> bool {
        Boottime::now() >= self.opened.renew_at
    }

    fn is_same(&self, other: &Self) -> bool {
        self.opened.id == other.opened.id
    }
}

impl fmt::Debug for ImportSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ImportSession")
            .field("id", &self.opened.id)
            .field("mailbox", &self.opened.key.mailbox)
            .field("version", &self.opened.key.version)
            .field("fresh", &self.fresh)
            .finish_non_exhaustive()
    }
}

/// What became of a wish for a session; the label `event`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    Opened,
    Reused,
    Renewed,
}

impl Event {
    pub(super) const ALL: [Self; 3] = [Self::Opened, Self::Reused, Self::Renewed];

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Opened => "opened",
            Self::Reused => "reused",
            Self::Renewed => "renewed",
        }
    }
}

/// The sessions that are open.
#[derive(Debug)]
pub(super) struct Sessions(Cache<Key, ImportSession>);

impl Sessions {
    pub(super) fn new() -> Self {
        Self(Cache::builder().max_capacity(CAPACITY).time_to_idle(IDLE).build())
    }

    /// The session of `key`, opened by `open` if there is none; one opening for many waiters.
    pub(super) async fn get(
        &self,
        key: Key,
        open: impl Future<Output = Result<ImportSession, RestoreError>>,
    ) -> Result<(ImportSession, Event), RestoreError> {
        let over = match self.0.get(&key).await {
            Some(session) if session.is_over() => {
                self.forget(&session).await;
                true
            }
            Some(_) | None => false,
        };
        let opened = AtomicBool::new(false);
        let flagged = async {
            opened.store(true, Ordering::Relaxed);
            open.await
        };
        let session = self.0.try_get_with(key, flagged).await.map_err(|error| (*error).clone())?;
        let fresh = opened.load(Ordering::Relaxed);
        let event = match (fresh, over) {
            (false, _) => Event::Reused,
            (true, false) => Event::Opened,
            (true, true) => Event::Renewed,
        };
        Ok((ImportSession { fresh, ..session }, event))
    }

    /// Drops the session, if the one that is kept is still this one; whether it was.
    pub(super) async fn forget(&self, session: &ImportSession) -> bool {
        let outcome = self
            .0
            .entry_by_ref(&session.opened.key)
            .and_compute_with(|kept| {
                let same = kept.is_some_and(|kept| kept.value().is_same(session));
                std::future::ready(if same { Op::Remove } else { Op::Nop })
            })
            .await;
        matches!(outcome, moka::ops::compute::CompResult::Removed(_))
    }
}

/// A host that import URLs may have. Without a port only the scheme's own is allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ImportHost {
    host: String,
    port: u16,
}

impl ImportHost {
    /// Parses `host` or `host:port`.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("exchange.import_hosts: {text:?} is no host name (with a port, if it is not 443)");
        let url = Url::parse(&format!("https://{text}/")).map_err(|_| wrong())?;
        let bare = url.path() == "/" && url.query().is_none() && url.username().is_empty();
        match (url.host_str(), url.port_or_known_default()) {
            (Some(host), Some(port)) if bare && !text.contains('/') => {
                Ok(Self { host: host.to_owned(), port })
            }
            _ => Err(wrong()),
        }
    }

    fn is_of(&self, url: &Url) -> bool {
        url.host_str() == Some(self.host.as_str()) && url.port_or_known_default() == Some(self.port)
    }
}

/// Reads the answer of `createImportSession`: the checked URL and how long it lives.
pub(super) fn decode(
    body: &[u8],
    hints: &Hints,
    now: UnixMillis,
    hosts: &[ImportHost],
) -> Result<(Url, Duration), RestoreError> {
    let refused =
        |why: &str| told(Reason::SessionRejected, format!("the import session cannot be used: {why}"), hints);
    let object = wire::object(body).ok_or_else(|| passing("the answer is no JSON object", hints))?;
    let url =
        wire::text(&object, "importUrl").ok_or_else(|| passing("the answer holds no importUrl", hints))?;
    let parsed = Url::parse(url).map_err(|_| refused("its URL is none"))?;
    if parsed.scheme() != "https" {
        return Err(told(Reason::ImportHostNotAllowed, "the import URL is not https".into(), hints));
    }
    if !hosts.iter().any(|host| host.is_of(&parsed)) {
        let host = wire::cut(parsed.host_str().unwrap_or_default());
        let message = format!("the import URL's host {host} is not in exchange.import_hosts");
        return Err(told(Reason::ImportHostNotAllowed, message, hints));
    }
    if !parsed.username().is_empty() || parsed.password().is_some() || parsed.fragment().is_some() {
        return Err(refused("its URL holds a user or a fragment"));
    }
    if parsed.as_str() != url {
        return Err(refused("its URL could not be sent byte for byte"));
    }
    Ok((parsed, lifetime(wire::text(&object, "expirationDateTime"), hints.date.unwrap_or(now))))
}

/// From the other side's own clock to its own end: no offset between clocks matters.
fn lifetime(end: Option<&str>, now: UnixMillis) -> Duration {
    match end.and_then(wire::moment).map(|end| end.since(now)) {
        Some(life) if !life.is_zero() => life.min(MAX_LIFETIME),
        Some(_) | None => FALLBACK_LIFETIME,
    }
}

fn told(reason: Reason, message: String, hints: &Hints) -> RestoreError {
    RestoreError { request_id: hints.request_id.clone(), ..RestoreError::job(reason, message) }
}

fn passing(why: &str, hints: &Hints) -> RestoreError {
    let fault = Fault::Passing { dependency: Dependency::Exchange, retry_after: None };
    let message = format!("the import session cannot be used: {why}");
    told(Reason::ExchangeUnavailable, message, hints).with_fault(fault)
}

/// Largest answer of `createImportSession` that is read; real ones are below 4 KiB.
pub(super) const MAX_ANSWER: usize = 256 * 1024;

/// An answer that could not be read.
pub(super) fn unread(why: &client::Unread, hints: &Hints) -> RestoreError {
    passing(&why.to_string(), hints)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GOOD: &str =
        "https://outlook.office365.com/api/gv1.0/Mailboxes('MBX:a@b')/importItem?authtoken=eyJx.y-z_&c=%2f";

    fn hosts(list: &[&str]) -> Vec<ImportHost> {
        list.iter().map(|host| ImportHost::parse(host).expect("a host")).collect()
    }

    fn decoded(url: &str, allowed: &[&str]) -> Result<Url, Reason> {
        let body = serde_json::json!({ "importUrl": url, "expirationDateTime": "x" }).to_string();
        decode(body.as_bytes(), &Hints::default(), UnixMillis(0), &hosts(allowed))
            .map(|(url, _)| url)
            .map_err(|error| error.reason)
    }

    #[test]
    fn import_urls_are_taken_as_they_are_or_refused() {
        let office = &["outlook.office365.com"][..];
        assert_eq!(decoded(GOOD, office).expect("taken").as_str(), GOOD);
        for (url, allowed, reason) in [
            ("http://outlook.office365.com/x?authtoken=s", office, Reason::ImportHostNotAllowed),
            ("https://evil.example/x?authtoken=s", office, Reason::ImportHostNotAllowed),
            ("https://outlook.office365.com.evil.example/x", office, Reason::ImportHostNotAllowed),
            ("https://outlook.office365.com:8443/x", office, Reason::ImportHostNotAllowed),
            ("https://outlook.office365.com@evil.example/x", office, Reason::ImportHostNotAllowed),
            ("https://user@outlook.office365.com/x", office, Reason::SessionRejected),
            ("https://outlook.office365.com/x?a='b'", office, Reason::SessionRejected),
            ("https://outlook.office365.com/a/../b", office, Reason::SessionRejected),
            ("https://OUTLOOK.office365.com/b", office, Reason::SessionRejected),
            ("https://outlook.office365.com/b#f", office, Reason::SessionRejected),
            ("https://localhost:1235/b", &["localhost:1234"][..], Reason::ImportHostNotAllowed),
            ("no url", office, Reason::SessionRejected),
        ] {
            assert_eq!(decoded(url, allowed), Err(reason), "{url}");
        }
        assert!(decoded("https://localhost:1234/b", &["localhost:1234"]).is_ok());
    }

    #[test]
    fn no_refusal_shows_the_url() {
        let body = br#"{"importUrl":"https://evil.example/x?authtoken=hunter2"}"#;
        let error =
            decode(body, &Hints::default(), UnixMillis(0), &hosts(&["a.example"])).expect_err("refused");
        assert!(!format!("{error:?} {error}").contains("hunter2"));
    }

    #[test]
    fn answers_that_are_none_pass() {
        for body in ["", "no JSON", "[]", "{}", r#"{"importUrl":null}"#, r#"{"importUrl":"https://a"#] {
            let error = decode(body.as_bytes(), &Hints::default(), UnixMillis(0), &[]).expect_err("refused");
            assert!(matches!(error.fault, Fault::Passing { .. }), "{body}");
        }
    }

    #[test]
    fn a_missing_or_odd_end_is_five_minutes() {
        let now = wire::moment("2024-10-17T18:00:00Z").expect("a moment");
        for (end, seconds) in [
            (Some("2024-10-17T19:00:00.1052906Z"), 3_600),
            (Some("2024-10-17T17:00:00Z"), 300),
            (Some("nonsense"), 300),
            (Some("9999-12-31T23:59:59Z"), 24 * 3_600),
            (None, 300),
        ] {
            assert_eq!(lifetime(end, now).as_secs(), seconds, "{end:?}");
        }
    }

    #[test]
    fn hosts_of_configuration() {
        for (text, well) in [
            ("a.example", true),
            ("localhost:1", true),
            ("a/b", false),
            ("https://a", false),
            ("", false),
            ("u@a", false),
        ] {
            assert_eq!(ImportHost::parse(text).is_ok(), well, "{text}");
        }
    }

    fn key() -> Key {
        let tenant = TenantId::parse("a.example").expect("a tenant");
        let mailbox = MailboxId::parse("MBX:a@b").expect("a mailbox");
        Key { tenant, mailbox, version: GraphVersion::V1 }
    }

    fn opened(lifetime: Duration) -> ImportSession {
        let url = Url::parse(GOOD).expect("a URL");
        ImportSession::new(key(), url, lifetime, Duration::from_mins(2), None)
    }

    #[test]
    fn debug_shows_neither_url_nor_token() {
        let text = format!("{:?}", opened(Duration::from_hours(1)));
        assert!(!text.contains("eyJ") && !text.contains("outlook") && text.contains("MBX:a@b"), "{text}");
    }

    #[tokio::test]
    async fn one_opening_serves_many_and_is_renewed_and_forgotten() {
        let sessions = Sessions::new();
        let open = |lifetime| async move { Ok(opened(lifetime)) };
        let (first, event) = sessions.get(key(), open(Duration::from_hours(1))).await.expect("a session");
        assert_eq!((event, first.is_fresh()), (Event::Opened, true));
        let (second, event) = sessions.get(key(), open(Duration::from_hours(1))).await.expect("a session");
        assert_eq!((event, second.is_fresh(), second.is_same(&first)), (Event::Reused, false, true));
        assert!(sessions.forget(&second).await && !sessions.forget(&first).await);
        let (third, event) = sessions.get(key(), open(Duration::ZERO)).await.expect("a session");
        assert_eq!((event, third.is_same(&first)), (Event::Opened, false));
        assert!(!sessions.forget(&first).await, "another's session is not forgotten");
        let (fourth, event) = sessions.get(key(), open(Duration::from_hours(1))).await.expect("a session");
        assert_eq!((event, fourth.is_same(&third)), (Event::Renewed, false));
    }

    #[tokio::test]
    async fn many_waiters_open_once_and_a_failure_is_not_kept() {
        let sessions = Sessions::new();
        let openings = std::sync::atomic::AtomicU32::new(0);
        let wait = || async {
            let open = async {
                openings.fetch_add(1, Ordering::SeqCst);
                tokio::task::yield_now().await;
                Err(RestoreError::job(Reason::MailboxNotFound, "no"))
            };
            sessions.get(key(), open).await.map(|_| ())
        };
        let outcomes = futures_util::future::join_all((0..50).map(|_| wait())).await;
        assert!(
            outcomes
                .iter()
                .all(|outcome| outcome.as_ref().is_err_and(|e| e.reason == Reason::MailboxNotFound))
        );
        assert_eq!(openings.load(Ordering::SeqCst), 1);
        assert!(sessions.get(key(), async { Ok(opened(Duration::from_hours(1))) }).await.is_ok());
    }

    proptest! {
        #[test]
        fn no_answer_panics(body in proptest::collection::vec(any::<u8>(), 0..300), url in ".{0,100}", host in ".{0,30}") {
            let hosts = hosts(&["a.example"]);
            let _bytes = decode(&body, &Hints::default(), UnixMillis(0), &hosts);
            let body = serde_json::json!({ "importUrl": url, "expirationDateTime": url }).to_string();
            let _text = decode(body.as_bytes(), &Hints::default(), UnixMillis(0), &hosts);
            let _host = ImportHost::parse(&host);
        }
    }
}
