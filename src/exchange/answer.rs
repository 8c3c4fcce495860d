//! What an answer means: one table from (call, status, code, text) to fault, reason and remedy.
//!
//! Pure. Status first, code second, text last: the order of [`RULES`] is the order of judgement. Each line says how it
//! is known; `Guess` marks what no source documents (README, "Open questions"), so that a real answer can correct it in
//! one line.

use super::{
    Remedy,
    wire::{Hints, Said},
};
use crate::domain::{Dependency, Fault, Limit, MailboxId, OursScope, Reason, RestoreError, ThrottleScope};

/// Which request was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    /// `createImportSession`.
    Session,
    /// The import URL.
    Import {
        /// Mode `update`.
        update: bool,
        /// The session was opened for this very call.
        fresh: bool,
        /// The closing bytes were handed over.
        completed: bool,
    },
    /// Listing items, or reading one.
    Look,
    /// Only whether Graph answers.
    Probe,
}

/// Where a rule holds.
#[derive(Clone, Copy, Debug)]
enum On {
    Any,
    Graph,
    Session,
    Look,
    Import,
    Update,
}

/// Which status a rule wants.
#[derive(Clone, Copy, Debug)]
enum Status {
    Any,
    Is(u16),
    Among(&'static [u16]),
    Client,
    Server,
}

/// What an answer means.
#[derive(Clone, Copy, Debug)]
enum Meaning {
    /// A limit was named.
    Limit(Limit),
    /// A 503 without a name: a limit while the body was incomplete, else doubt (passing where nothing was imported).
    Busy,
    /// The import belongs to the mailbox that the text names.
    Redirect,
    /// The job's own trouble.
    Job(Reason),
    /// Refused, but by something that may differ at the next try.
    Refused(Reason),
    /// Our token is refused.
    Identity,
    /// Doubt after a complete body; passing else.
    Away,
}

/// How a rule is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// Documented by Microsoft.
    Documented,
    /// Reported by practitioners.
    Practised,
    /// Neither: inferred from Exchange's other interfaces.
    Guess,
}

struct Rule {
    on: On,
    status: Status,
    /// Lower-case codes or parts of the text, one of which must be said; none: whatever is said.
    says: &'static [&'static str],
    means: Meaning,
    known: Known,
}

const fn rule(on: On, status: Status, says: &'static [&'static str], means: Meaning, known: Known) -> Rule {
    Rule { on, status, says, means, known }
}

use Known::{Documented, Guess, Practised};
use Meaning::{Away, Busy, Identity, Job, Redirect, Refused};
use Status::{Among, Client, Is, Server};

const ANY: &[&str] = &[];
const CONFLICT: &[&str] = &["errorirresolvableconflict", "errorstaleobject", "change key"];
const NOT_FOUND: &[&str] = &["erroritemnotfound", "errorfoldernotfound", "errornotfound", "resourcenotfound"];
const TOO_LARGE: &[&str] = &["errormessagesizeexceeded", "requestentitytoolarge"];
const FULL: &[&str] = &["errorquotaexceeded", "errormailboxquotaexceeded"];

/// The table. The first rule that fits judges.
static RULES: &[Rule] = &[
    // Limits, whatever the status.
    rule(On::Any, Status::Any, &["incomingbytes"], Meaning::Limit(Limit::IncomingBytes), Practised),
    rule(
        On::Any,
        Status::Any,
        &["mailboxconcurrency"],
        Meaning::Limit(Limit::MailboxConcurrency),
        Documented,
    ),
    rule(On::Any, Status::Any, &["errorserverbusy"], Meaning::Limit(Limit::ServerBusy), Guess),
    rule(
        On::Any,
        Status::Any,
        &["errorexceededconnectioncount"],
        Meaning::Limit(Limit::MailboxConcurrency),
        Guess,
    ),
    rule(
        On::Any,
        Is(429),
        &["request limit", "requests limit", "number of requests"],
        Meaning::Limit(Limit::Requests),
        Guess,
    ),
    rule(On::Any, Is(429), ANY, Meaning::Limit(Limit::Other), Documented),
    rule(On::Any, Status::Any, &["application is over its"], Meaning::Limit(Limit::Other), Practised),
    rule(On::Any, Status::Any, &["applicationthrottled"], Meaning::Limit(Limit::Other), Guess),
    // What the text says outright.
    rule(On::Import, Is(409), &["expected in mailbox"], Redirect, Documented),
    rule(On::Any, Client, &["archive mailbox not allowed"], Job(Reason::ArchiveUnsupported), Practised),
    rule(On::Session, Server, &["archive mailbox not allowed"], Job(Reason::ArchiveUnsupported), Guess),
    // Opening a session, and looking.
    rule(On::Graph, Is(401), ANY, Identity, Documented),
    rule(On::Graph, Is(403), ANY, Job(Reason::MailboxForbidden), Practised),
    rule(On::Session, Is(404), ANY, Job(Reason::MailboxNotFound), Guess),
    rule(On::Look, Is(404), ANY, Job(Reason::FolderNotFound), Guess),
    rule(On::Session, Client, &["erroraccessdenied"], Job(Reason::MailboxForbidden), Guess),
    rule(On::Session, Client, &["errornonexistentmailbox"], Job(Reason::MailboxNotFound), Guess),
    rule(On::Graph, Among(&[408, 421, 425]), ANY, Away, Guess),
    rule(On::Session, Client, ANY, Refused(Reason::SessionRejected), Guess),
    rule(On::Look, Client, ANY, Refused(Reason::ExchangeUnavailable), Guess),
    // The import: its own words before its status where the status is not known.
    rule(On::Import, Among(&[408, 421, 425]), ANY, Away, Guess),
    rule(On::Import, Is(507), ANY, Job(Reason::MailboxFull), Guess),
    rule(On::Import, Client, FULL, Job(Reason::MailboxFull), Guess),
    rule(On::Import, Is(413), ANY, Job(Reason::BlobTooLarge), Guess),
    rule(On::Import, Client, TOO_LARGE, Job(Reason::BlobTooLarge), Guess),
    rule(On::Update, Client, CONFLICT, Job(Reason::ChangeKeyConflict), Guess),
    rule(On::Update, Among(&[409, 412]), ANY, Job(Reason::ChangeKeyConflict), Guess),
    rule(On::Import, Client, &["errorfoldernotfound"], Job(Reason::FolderNotFound), Guess),
    rule(On::Update, Client, NOT_FOUND, Job(Reason::ItemNotFound), Guess),
    rule(On::Update, Is(404), ANY, Job(Reason::ItemNotFound), Guess),
    rule(On::Import, Client, NOT_FOUND, Job(Reason::FolderNotFound), Guess),
    rule(On::Import, Is(404), ANY, Job(Reason::FolderNotFound), Guess),
    rule(On::Import, Is(401), ANY, Refused(Reason::SessionRejected), Guess),
    rule(On::Import, Is(403), ANY, Job(Reason::MailboxForbidden), Guess),
    rule(On::Import, Client, ANY, Job(Reason::ItemRejected), Guess),
    // The other side's own trouble, and nonsense.
    rule(On::Any, Is(503), ANY, Busy, Guess),
    rule(On::Any, Server, ANY, Away, Practised),
    rule(On::Any, Status::Any, ANY, Away, Guess),
];

/// What to say beside what Exchange says: the way out, where there is one.
const fn way_out(reason: Reason, call: Call) -> &'static str {
    match (reason, call) {
        (Reason::ArchiveUnsupported, _) => {
            "; v1.0 refuses archive mailboxes: set the job's graphVersion to beta, or exchange.graph to Graph's beta"
        }
        (Reason::MailboxForbidden, Call::Session) => {
            "; the application needs MailboxItem.ImportExport.All for this mailbox"
        }
        (Reason::MailboxForbidden, Call::Look) => "; looking needs MailboxItem.Read.All",
        _ => "",
    }
}

/// What an answer that is no success was judged to be.
#[derive(Debug)]
pub(super) struct Judged {
    /// Whose trouble, and why.
    pub(super) error: RestoreError,
    /// What is worth one more try.
    pub(super) remedy: Remedy,
    /// How the rule is known that judged.
    pub(super) known: Known,
}

/// Judges an answer that is no success.
pub(super) fn judge(call: Call, status: u16, hints: &Hints, said: &Said) -> Judged {
    let heard = Heard { said, hints };
    let rule =
        RULES.iter().find(|rule| holds(rule.on, call) && has(rule.status, status) && heard.any(rule.says));
    let (means, known) = rule.map_or((Away, Guess), |rule| (rule.means, rule.known));
    let (fault, reason) = fault(means, call, &heard);
    let error = RestoreError {
        fault,
        reason,
        message: format!("{} answered {status}{}{}", who(call), heard.told(), way_out(reason, call)),
        http_status: Some(status),
        graph_code: said.code.clone(),
        request_id: hints.request_id.clone(),
    };
    Judged { error, remedy: remedy(means, call, status, said), known }
}

struct Heard<'a> {
    said: &'a Said,
    hints: &'a Hints,
}

impl Heard<'_> {
    fn any(&self, words: &[&str]) -> bool {
        let headers = self.hints.limit.to_ascii_lowercase();
        words.is_empty() || words.iter().any(|word| self.said.says(word) || headers.contains(word))
    }

    fn told(&self) -> String {
        let sentence = self.said.sentence();
        if sentence.is_empty() { String::new() } else { format!(": {sentence}") }
    }

    /// Guess: no source shows a limit of these calls that is not the mailbox's.
    fn scope(&self) -> ThrottleScope {
        if self.any(&["across all tenants", "all tenants"]) {
            ThrottleScope::App
        } else if self.any(&["tenantlimit", "tenant limit", "for this tenant", "for tenant"]) {
            ThrottleScope::Tenant
        } else {
            ThrottleScope::Mailbox
        }
    }
}

const fn who(call: Call) -> &'static str {
    match call {
        Call::Session => "the request for an import session was",
        Call::Import { .. } => "the import was",
        Call::Look => "looking for the item was",
        Call::Probe => "graph",
    }
}

const fn holds(on: On, call: Call) -> bool {
    match on {
        On::Any => true,
        On::Graph => !matches!(call, Call::Import { .. }),
        On::Session => matches!(call, Call::Session),
        On::Look => matches!(call, Call::Look),
        On::Import => matches!(call, Call::Import { .. }),
        On::Update => matches!(call, Call::Import { update: true, .. }),
    }
}

fn has(wanted: Status, status: u16) -> bool {
    match wanted {
        Status::Any => true,
        Is(one) => one == status,
        Among(some) => some.contains(&status),
        Client => (400..500).contains(&status),
        Server => (500..600).contains(&status),
    }
}

fn fault(means: Meaning, call: Call, heard: &Heard<'_>) -> (Fault, Reason) {
    let retry_after = heard.hints.retry_after;
    let completed = matches!(call, Call::Import { completed: true, .. });
    let throttled =
        |limit| (Fault::Throttled { scope: heard.scope(), limit, retry_after }, Reason::Throttled);
    let passing = |reason| (Fault::Passing { dependency: Dependency::Exchange, retry_after }, reason);
    match means {
        Meaning::Limit(limit) => throttled(limit),
        Busy if matches!(call, Call::Import { completed: false, .. }) => throttled(Limit::ServerBusy),
        Busy | Away if completed => (Fault::InDoubt, Reason::OutcomeUnknown),
        Busy | Away => passing(Reason::ExchangeUnavailable),
        Redirect => (Fault::Job, Reason::SessionRejected),
        Job(reason) => (Fault::Job, reason),
        Refused(reason) => passing(reason),
        Identity => (Fault::Ours { scope: OursScope::Everything }, Reason::IdentityRejected),
    }
}

/// An expired URL is deleted and looks like anything: on a session that was not opened for this call every refusal is
/// tried once more with a new one.
fn remedy(means: Meaning, call: Call, status: u16, said: &Said) -> Remedy {
    match (means, call) {
        (Redirect, _) => redirect_target(&said.text).map_or(Remedy::None, Remedy::Redirect),
        (Job(_) | Refused(_), Call::Import { fresh: false, .. }) if has(Client, status) => {
            Remedy::ReopenSession
        }
        _ => Remedy::None,
    }
}

/// The mailbox in "… is expected in mailbox MBX:….".
fn redirect_target(text: &str) -> Option<MailboxId> {
    const BEFORE: &str = "expected in mailbox ";
    let start = text.to_ascii_lowercase().find(BEFORE)? + BEFORE.len();
    let rest = text.get(start..)?;
    let end = rest.find(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | ',')).unwrap_or(rest.len());
    MailboxId::parse(rest[..end].trim_end_matches('.')).ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    const SENT: Call = Call::Import { update: false, fresh: true, completed: true };
    const PART: Call = Call::Import { update: false, fresh: true, completed: false };
    const OLD: Call = Call::Import { update: false, fresh: false, completed: true };
    const UPDATE: Call = Call::Import { update: true, fresh: true, completed: true };

    fn judged(call: Call, status: u16, body: &str) -> Judged {
        judge(call, status, &Hints::default(), &Said::decode(body.as_bytes()))
    }

    fn code(code: &str) -> String {
        format!("{{\"error\":{{\"code\":\"{code}\",\"message\":\"text\"}}}}")
    }

    fn limit(limit: Limit) -> (Fault, Reason) {
        (Fault::Throttled { scope: ThrottleScope::Mailbox, limit, retry_after: None }, Reason::Throttled)
    }

    fn passing(reason: Reason) -> (Fault, Reason) {
        (Fault::Passing { dependency: Dependency::Exchange, retry_after: None }, reason)
    }

    /// `4-exchange.md`, row by row.
    #[test]
    fn the_table() {
        let doubt = (Fault::InDoubt, Reason::OutcomeUnknown);
        let away = passing(Reason::ExchangeUnavailable);
        let job = |reason| (Fault::Job, reason);
        let ours = (Fault::Ours { scope: OursScope::Everything }, Reason::IdentityRejected);
        let incoming = r#"{"error":{"code":"x","message":"Application is over its IncomingBytes limit."}}"#;
        let concurrency = r#"{"error":{"code":"ApplicationThrottled","message":"Application is over its MailboxConcurrency limit."}}"#;
        let archive = r#"{"Error":{"Code":"x","Message":"Operation on Archive mailbox not allowed."}}"#;
        for (call, status, body, expected) in [
            // Doubt.
            (SENT, 500, String::new(), doubt),
            (SENT, 502, "<html>".into(), doubt),
            (SENT, 503, String::new(), doubt),
            (SENT, 504, String::new(), doubt),
            (SENT, 302, String::new(), doubt),
            (SENT, 408, String::new(), doubt),
            (SENT, 425, String::new(), doubt),
            (PART, 500, String::new(), away),
            (PART, 421, String::new(), away),
            (PART, 308, String::new(), away),
            (Call::Session, 500, String::new(), away),
            (Call::Session, 503, String::new(), away),
            (Call::Look, 504, String::new(), away),
            // Limits.
            (SENT, 429, incoming.into(), limit(Limit::IncomingBytes)),
            (SENT, 503, incoming.into(), limit(Limit::IncomingBytes)),
            (SENT, 500, incoming.into(), limit(Limit::IncomingBytes)),
            (SENT, 403, concurrency.into(), limit(Limit::MailboxConcurrency)),
            (SENT, 429, String::new(), limit(Limit::Other)),
            (SENT, 503, code("ErrorServerBusy"), limit(Limit::ServerBusy)),
            (PART, 503, String::new(), limit(Limit::ServerBusy)),
            (Call::Session, 429, code("TooManyRequests"), limit(Limit::Other)),
            // Sessions and looking.
            (Call::Session, 401, String::new(), ours),
            (Call::Session, 403, code("ErrorAccessDenied"), job(Reason::MailboxForbidden)),
            (Call::Session, 404, String::new(), job(Reason::MailboxNotFound)),
            (Call::Session, 400, archive.into(), job(Reason::ArchiveUnsupported)),
            (Call::Session, 418, String::new(), passing(Reason::SessionRejected)),
            (Call::Look, 401, String::new(), ours),
            (Call::Look, 403, String::new(), job(Reason::MailboxForbidden)),
            (Call::Look, 404, String::new(), job(Reason::FolderNotFound)),
            (Call::Look, 400, String::new(), passing(Reason::ExchangeUnavailable)),
            // Imports.
            (SENT, 401, String::new(), passing(Reason::SessionRejected)),
            (SENT, 403, String::new(), job(Reason::MailboxForbidden)),
            (SENT, 404, String::new(), job(Reason::FolderNotFound)),
            (SENT, 400, code("ErrorFolderNotFound"), job(Reason::FolderNotFound)),
            (SENT, 400, code("ErrorItemNotFound"), job(Reason::FolderNotFound)),
            (UPDATE, 400, code("ErrorItemNotFound"), job(Reason::ItemNotFound)),
            (UPDATE, 400, code("ErrorFolderNotFound"), job(Reason::FolderNotFound)),
            (UPDATE, 404, String::new(), job(Reason::ItemNotFound)),
            (UPDATE, 409, String::new(), job(Reason::ChangeKeyConflict)),
            (UPDATE, 412, String::new(), job(Reason::ChangeKeyConflict)),
            (UPDATE, 400, code("ErrorIrresolvableConflict"), job(Reason::ChangeKeyConflict)),
            (SENT, 409, String::new(), job(Reason::ItemRejected)),
            (SENT, 507, String::new(), job(Reason::MailboxFull)),
            (SENT, 400, code("ErrorQuotaExceeded"), job(Reason::MailboxFull)),
            (SENT, 413, String::new(), job(Reason::BlobTooLarge)),
            (SENT, 400, code("ErrorMessageSizeExceeded"), job(Reason::BlobTooLarge)),
            (SENT, 400, archive.into(), job(Reason::ArchiveUnsupported)),
            (SENT, 400, code("ErrorCorruptData"), job(Reason::ItemRejected)),
            (SENT, 418, "teapot".into(), job(Reason::ItemRejected)),
        ] {
            let error = judged(call, status, &body).error;
            assert_eq!((error.fault, error.reason), expected, "{call:?} {status} {body}");
        }
    }

    #[test]
    fn an_old_session_is_reopened_for_what_may_be_its_own_fault() {
        for (status, body, expected) in [
            (400, String::new(), Remedy::ReopenSession),
            (401, String::new(), Remedy::ReopenSession),
            (403, String::new(), Remedy::ReopenSession),
            (404, String::new(), Remedy::ReopenSession),
            (409, String::new(), Remedy::ReopenSession),
            (410, String::new(), Remedy::ReopenSession),
            (408, String::new(), Remedy::None),
            (421, String::new(), Remedy::None),
            (425, String::new(), Remedy::None),
            (429, String::new(), Remedy::None),
            (400, code("ErrorServerBusy"), Remedy::None),
            (500, String::new(), Remedy::None),
            (507, String::new(), Remedy::None),
        ] {
            assert_eq!(judged(OLD, status, &body).remedy, expected, "{status}");
            assert_eq!(judged(SENT, status, &body).remedy, Remedy::None, "{status} fresh");
        }
    }

    #[test]
    fn the_redirect_names_its_mailbox() {
        let body = r#"{"Message":"Invalid import session. The target session is expected in mailbox MBX:f10964a6-4fd0-4f74-8@4d2e-9e48-109351d094ab."}"#;
        let target = MailboxId::parse("MBX:f10964a6-4fd0-4f74-8@4d2e-9e48-109351d094ab").expect("an id");
        for call in [SENT, OLD, UPDATE] {
            let judged = judged(call, 409, body);
            assert_eq!(judged.remedy, Remedy::Redirect(target.clone()));
            assert_eq!((judged.error.fault, judged.error.reason), (Fault::Job, Reason::SessionRejected));
        }
        let broken = judged(SENT, 409, r#"{"Message":"expected in mailbox ../x"}"#);
        assert_eq!(broken.remedy, Remedy::None);
    }

    #[test]
    fn headers_can_name_the_limit_and_the_pause() {
        let hints = Hints {
            limit: "IncomingBytes".into(),
            retry_after: Some(Duration::from_secs(30)),
            request_id: Some("r-1".into()),
            ..Hints::default()
        };
        let error = judge(SENT, 429, &hints, &Said::default()).error;
        let scope = ThrottleScope::Mailbox;
        let retry_after = Some(Duration::from_secs(30));
        assert_eq!(error.fault, Fault::Throttled { scope, limit: Limit::IncomingBytes, retry_after });
        assert_eq!((error.request_id.as_deref(), error.http_status), (Some("r-1"), Some(429)));
    }

    #[test]
    fn a_way_out_is_named() {
        let error =
            judged(Call::Session, 400, r#"{"Message":"Operation on Archive mailbox not allowed"}"#).error;
        assert!(error.message.contains("graphVersion to beta"), "{error}");
    }

    proptest! {
        #[test]
        fn every_answer_is_judged(status in 100_u16..1_000, body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let said = Said::decode(&body);
            for call in [SENT, PART, OLD, UPDATE, Call::Session, Call::Look, Call::Probe] {
                let judged = judge(call, status, &Hints::default(), &said);
                // Doubt only where an import can have happened.
                let may = matches!(call, Call::Import { completed: true, .. });
                prop_assert!(may || judged.error.fault != Fault::InDoubt);
            }
        }
    }
}
