//! The ledger's record of one job, as a pure state machine: what may be done given what stands there, and what stands
//! there afterwards.
//!
//! ```text
//!  (nothing) ── claim ──► importing ── imported ──► told again
//!                           │   ▲
//!    certainly not imported │   │ claim again (first claim's time and mailbox kept)
//!                           ▼   │
//!                         released ── failed ──► told again; a higher round opens it
//!    importing, lease over ──► looked at: imported | released | unknown
//! ```
//!
//! Every write is conditional on what was read, so of two workers one wins; the loser reads and asks [`admit`] again.
//! A record is written before what it describes may happen, never after. Fields that a later version adds are ignored.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    event::{Failure, Imported},
    job::{ChangeKey, Invalid, ItemId, MailboxId, TenantId, UnixMillis},
    reason::Reason,
};

/// The form that this file writes.
pub const VERSION: u32 = 1;

/// What the ledger knows of one job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// [`VERSION`] of the writer.
    pub version: u32,
    /// The job.
    pub job_id: String,
    /// Hash of everything that makes the job what it is.
    pub fingerprint: String,
    /// The round of replay that this record belongs to.
    #[serde(default)]
    pub replay: u32,
    /// Beginnings that never ended: of suspects, and of claims whose worker died.
    #[serde(default)]
    pub begun: u32,
    /// The last claim of this round, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trail: Option<Trail>,
    /// Where the job stands.
    #[serde(flatten)]
    pub state: State,
}

/// A claim, and what earlier claims of the same round left behind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Trail {
    /// The claim's own id.
    pub claim_id: String,
    /// Who claimed.
    pub worker: String,
    /// The first claim of the round, in Exchange's time (unix ms). Items made before cannot be the job's.
    pub first_claim: i64,
    /// The mailbox actually posted to.
    pub mailbox: String,
    /// Its tenant; with it the index of an item can be found without the job. Missing where an earlier version claimed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// The job's mode; missing likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// Bodies that may have been completed.
    pub sends: u32,
    /// How long the claim holds, from the store's time of the write (ms).
    pub lease_ms: u64,
    /// When the claim was found over or given up in doubt, in the store's time (unix ms). Lease and settling are judged by
    /// it from then on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_ended: Option<i64>,
    /// The blob's `ETag` when it was read for the claim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
    /// The blob's search key in hexadecimal, when it was known before the claim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub search_key: Option<String>,
}

/// Where a job stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase", rename_all_fields = "camelCase")]
pub enum State {
    /// Claimed; the import may happen or have happened.
    Importing,
    /// Certainly not imported.
    Released,
    /// Imported.
    Imported {
        /// The item.
        item_id: String,
        /// Its version.
        change_key: String,
        /// SHA-256 of the FTS bytes, in hexadecimal.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        sha256: Option<String>,
        /// FTS bytes.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        bytes: Option<u64>,
        /// Further items that the job is known to have made.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        duplicates: Vec<String>,
    },
    /// Certainly not imported, and told so.
    Failed {
        /// The reason code.
        reason: String,
        /// What a person should read.
        message: String,
    },
    /// Nobody can say, and told so.
    Unknown {
        /// The reason code.
        reason: String,
        /// What a person should read.
        message: String,
    },
}

/// A record as it was read: with the store's own idea of its age.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The record.
    pub record: Record,
    /// `Last-Modified` of the answer: the store's time of the last write.
    pub written: UnixMillis,
    /// `Date` of the same answer: the store's time of the reading.
    pub now: UnixMillis,
}

/// Who asks to import.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claimant {
    /// Hash of the job.
    pub fingerprint: String,
    /// The message's round of replay.
    pub replay: u32,
    /// The claim id of the unknown record against which the message allows one new import.
    pub force: Option<String>,
}

/// What follows for who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    /// May claim (with a conditional write over what was read).
    Claim,
    /// Imported, in whatever round: tell it again.
    TellImported,
    /// Failed in this round or a later one: tell it again.
    TellFailed,
    /// Unknown in whatever round: tell it again.
    TellUnknown,
    /// Another claim holds; it ends within this time at the latest.
    Busy {
        /// By the store's clock.
        left: Duration,
    },
    /// A claim is over and nobody knows how it ended.
    Doubt,
    /// The same id with another payload.
    Reused,
    /// The record is of a later round, which will end: this message tells that end then.
    LaterRound,
}

/// Decides what a message may do, given the record that was read.
#[must_use]
pub fn admit(standing: Option<&Standing>, who: &Claimant) -> Admission {
    let Some(Standing { record, .. }) = standing else { return Admission::Claim };
    if record.fingerprint != who.fingerprint {
        return Admission::Reused;
    }
    let forced = |claim: Option<&Trail>| matches!((claim, &who.force), (Some(trail), Some(force)) if &trail.claim_id == force);
    match &record.state {
        State::Imported { .. } => Admission::TellImported,
        State::Unknown { .. } if forced(record.trail.as_ref()) => Admission::Claim,
        State::Unknown { .. } => Admission::TellUnknown,
        State::Failed { .. } if who.replay > record.replay => Admission::Claim,
        State::Failed { .. } => Admission::TellFailed,
        State::Released if who.replay < record.replay => Admission::LaterRound,
        State::Released => Admission::Claim,
        State::Importing => match standing.map(Standing::lease_left) {
            Some(left) if !left.is_zero() => Admission::Busy { left },
            Some(_) | None => Admission::Doubt,
        },
    }
}

impl Standing {
    /// How long the claim still holds, by the store's clock; zero when it is over or was given up.
    #[must_use]
    pub fn lease_left(&self) -> Duration {
        match &self.record.trail {
            Some(Trail { lease_ended: None, lease_ms, .. }) => {
                self.written.plus(Duration::from_millis(*lease_ms)).since(self.now)
            }
            Some(_) | None => Duration::ZERO,
        }
    }

    /// When the claim ended, in the store's time: as noted, else as its lease says.
    #[must_use]
    pub fn lease_end(&self) -> UnixMillis {
        match &self.record.trail {
            Some(Trail { lease_ended: Some(ended), .. }) => UnixMillis(*ended),
            Some(trail) => self.written.plus(Duration::from_millis(trail.lease_ms)),
            None => self.written,
        }
    }

    /// How long until a look that finds nothing proves something.
    #[must_use]
    pub fn settles_in(&self, settle: Duration) -> Duration {
        self.lease_end().plus(settle).since(self.now)
    }

    /// The last claim.
    #[must_use]
    pub fn claim_id(&self) -> Option<&str> {
        self.record.trail.as_ref().map(|trail| trail.claim_id.as_str())
    }

    /// Whether the end of this claim has not been noted yet.
    #[must_use]
    pub fn is_unnoted(&self) -> bool {
        self.record.trail.as_ref().is_some_and(|trail| trail.lease_ended.is_none())
    }
}

/// What a new claim writes down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewClaim {
    /// Its id.
    pub claim_id: String,
    /// Who claims.
    pub worker: String,
    /// Now, in Exchange's time.
    pub now: UnixMillis,
    /// The mailbox that will be posted to.
    pub mailbox: String,
    /// Its tenant.
    pub tenant: TenantId,
    /// The job's mode.
    pub mode: &'static str,
    /// How long it holds.
    pub lease: Duration,
    /// The blob's `ETag`.
    pub etag: Option<String>,
    /// The blob's search key in hexadecimal, if it is known already.
    pub search_key: Option<String>,
}

impl Record {
    /// A record of a job that nobody has claimed.
    #[must_use]
    pub fn unclaimed(job_id: &str, who: &Claimant) -> Self {
        Self {
            version: VERSION,
            job_id: job_id.into(),
            fingerprint: who.fingerprint.clone(),
            replay: who.replay,
            begun: 0,
            trail: None,
            state: State::Released,
        }
    }

    /// Opens the round of a replay: what earlier rounds left behind is settled.
    fn in_round(&self, who: &Claimant) -> Self {
        let forced = matches!(self.state, State::Unknown { .. });
        if who.replay > self.replay || forced {
            Self {
                replay: who.replay.max(self.replay),
                begun: 0,
                trail: None,
                state: State::Released,
                ..self.clone()
            }
        } else {
            self.clone()
        }
    }

    /// Claimed, over what stands there; the first claim's time, the mailbox posted to and the sends of the same round are kept.
    #[must_use]
    pub fn claimed(&self, who: &Claimant, claim: NewClaim) -> Self {
        let round = self.in_round(who);
        let earlier = round.trail.as_ref();
        let trail = Trail {
            claim_id: claim.claim_id,
            worker: claim.worker,
            first_claim: earlier.map_or(claim.now.0, |t| t.first_claim.min(claim.now.0)),
            mailbox: earlier.filter(|t| t.sends > 0).map_or(claim.mailbox, |t| t.mailbox.clone()),
            tenant: Some(claim.tenant.as_str().into()),
            mode: Some(claim.mode.into()),
            sends: earlier.map_or(0, |t| t.sends) + 1,
            lease_ms: millis(claim.lease),
            lease_ended: None,
            etag: claim.etag,
            search_key: claim.search_key,
        };
        Self { version: VERSION, trail: Some(trail), state: State::Importing, ..round }
    }

    /// The same claim for one more body, after an answer has refused the one before (session reopened, redirected). A refused
    /// body is no item, so the number of bodies that may have been completed stays.
    #[must_use]
    pub fn renewed(&self, mailbox: &str, lease: Duration) -> Self {
        let mut record = self.clone();
        if let Some(trail) = &mut record.trail {
            mailbox.clone_into(&mut trail.mailbox);
            trail.lease_ms = millis(lease);
        }
        record
    }

    /// Certainly not imported by the last send; the attempt ended in an ordinary way.
    #[must_use]
    pub fn released(&self) -> Self {
        let mut record = Self { begun: 0, state: State::Released, ..self.clone() };
        if let Some(trail) = &mut record.trail {
            trail.sends = trail.sends.saturating_sub(1);
        }
        record
    }

    /// Looked at after settling, and nothing there: none of the sends became an item.
    #[must_use]
    pub fn found_nothing(&self) -> Self {
        let mut record = Self { state: State::Released, ..self.clone() };
        if let Some(trail) = &mut record.trail {
            trail.sends = 0;
        }
        record
    }

    /// The claim is over: by its own worker, whose body may be complete (`died: false`), or found so by another, which counts
    /// as a beginning that never ended (`died: true`).
    #[must_use]
    pub fn doubted(&self, ended: UnixMillis, died: bool) -> Self {
        let mut record = Self { begun: self.begun + u32::from(died), ..self.clone() };
        if let Some(trail) = &mut record.trail {
            trail.lease_ended = Some(ended.0);
        }
        record
    }

    /// One more beginning of a suspect.
    #[must_use]
    pub fn begun(&self, who: &Claimant) -> Self {
        let round = self.in_round(who);
        Self { begun: round.begun + 1, ..round }
    }

    /// The suspect's attempt ended in an ordinary way.
    #[must_use]
    pub fn ended_well(&self) -> Self {
        Self { begun: 0, ..self.clone() }
    }

    /// Imported.
    #[must_use]
    pub fn imported(
        &self,
        imported: &Imported,
        sha256: Option<String>,
        bytes: Option<u64>,
        duplicates: &[ItemId],
    ) -> Self {
        let state = State::Imported {
            item_id: imported.item_id.as_str().into(),
            change_key: imported.change_key.as_str().into(),
            sha256,
            bytes,
            duplicates: duplicates.iter().map(|d| d.as_str().into()).collect(),
        };
        Self { version: VERSION, begun: 0, state, ..self.clone() }
    }

    /// Failed, in the message's round.
    #[must_use]
    pub fn failed(&self, who: &Claimant, failure: &Failure) -> Self {
        let state =
            State::Failed { reason: failure.reason.as_str().into(), message: failure.message.clone() };
        Self { version: VERSION, begun: 0, state, ..self.in_round(who) }
    }

    /// Not imported, as a person found out of an unknown record. The round stays: a replay opens the next.
    #[must_use]
    pub fn not_imported(&self, failure: &Failure) -> Self {
        let state =
            State::Failed { reason: failure.reason.as_str().into(), message: failure.message.clone() };
        Self { version: VERSION, begun: 0, state, ..self.clone() }
    }

    /// Unknown.
    #[must_use]
    pub fn unknown(&self, failure: &Failure) -> Self {
        let state =
            State::Unknown { reason: failure.reason.as_str().into(), message: failure.message.clone() };
        Self { version: VERSION, begun: 0, state, ..self.clone() }
    }

    /// The proof that an imported record holds.
    ///
    /// # Errors
    /// When its ids are none: somebody else wrote it.
    pub fn proof(&self) -> Result<Option<(Imported, Vec<ItemId>)>, Invalid> {
        let State::Imported { item_id, change_key, duplicates, .. } = &self.state else { return Ok(None) };
        let imported =
            Imported { item_id: ItemId::parse(item_id)?, change_key: ChangeKey::parse(change_key)? };
        let duplicates = duplicates.iter().map(|d| ItemId::parse(d)).collect::<Result<_, _>>()?;
        Ok(Some((imported, duplicates)))
    }

    /// The failure that a failed or unknown record holds.
    #[must_use]
    pub fn failure(&self) -> Option<Failure> {
        match &self.state {
            State::Failed { reason, message } | State::Unknown { reason, message } => {
                // A later version may know more reasons; its message still says what happened.
                Some(Failure::new(Reason::parse(reason).unwrap_or(Reason::Internal), message.clone()))
            }
            State::Importing | State::Released | State::Imported { .. } => None,
        }
    }

    /// The mailbox that earlier sends of this round went to, where it is not to be chosen anew.
    #[must_use]
    pub fn posted_to(&self) -> Option<MailboxId> {
        self.trail.as_ref().and_then(|trail| MailboxId::parse(&trail.mailbox).ok())
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_mins(1);

    fn who(replay: u32) -> Claimant {
        Claimant { fingerprint: "f".into(), replay, force: None }
    }

    fn claim(id: &str, now: i64) -> NewClaim {
        NewClaim {
            claim_id: id.into(),
            worker: "w".into(),
            now: UnixMillis(now),
            mailbox: "m".into(),
            tenant: TenantId::parse("contoso.com").expect("a tenant"),
            mode: "create",
            lease: LEASE,
            etag: None,
            search_key: None,
        }
    }

    fn standing(record: Record, age: Duration) -> Standing {
        Standing { record, written: UnixMillis(1_000_000), now: UnixMillis(1_000_000).plus(age) }
    }

    fn proof() -> Imported {
        Imported { item_id: ItemId::parse("i").expect("id"), change_key: ChangeKey::parse("c").expect("key") }
    }

    #[test]
    fn what_a_message_may_do() {
        let free = Record::unclaimed("j", &who(1));
        let importing = free.claimed(&who(1), claim("c1", 5));
        let failed = free.failed(&who(1), &Failure::new(Reason::BlobNotFound, "no"));
        let unknown = importing.unknown(&Failure::new(Reason::OutcomeUnknown, "?"));
        let imported = importing.imported(&proof(), None, None, &[]);
        let forced = |id: &str| Claimant { force: Some(id.into()), ..who(2) };
        let other = Claimant { fingerprint: "g".into(), ..who(1) };
        let s = Duration::from_secs;
        for (name, record, age, who, expected) in [
            ("released", &free, 0, who(1), Admission::Claim),
            ("released, lower round", &free, 0, who(0), Admission::LaterRound),
            ("live lease", &importing, 20, who(1), Admission::Busy { left: s(40) }),
            ("live lease, higher round", &importing, 20, who(2), Admission::Busy { left: s(40) }),
            ("lease over", &importing, 60, who(1), Admission::Doubt),
            ("failed", &failed, 0, who(1), Admission::TellFailed),
            ("failed, lower round", &failed, 0, who(0), Admission::TellFailed),
            ("failed, higher round", &failed, 0, who(2), Admission::Claim),
            ("unknown, higher round", &unknown, 0, who(2), Admission::TellUnknown),
            ("unknown, forced by its claim", &unknown, 0, forced("c1"), Admission::Claim),
            ("unknown, forced by another", &unknown, 0, forced("c0"), Admission::TellUnknown),
            ("imported, any round", &imported, 0, who(9), Admission::TellImported),
            ("imported, another payload", &imported, 0, other, Admission::Reused),
        ] {
            assert_eq!(admit(Some(&standing(record.clone(), s(age))), &who), expected, "{name}");
        }
        assert_eq!(admit(None, &who(0)), Admission::Claim);
    }

    #[test]
    fn a_claim_again_keeps_the_first_claims_time_and_mailbox() {
        let first = Record::unclaimed("j", &who(0)).claimed(&who(0), claim("c1", 100));
        let redirected = first.renewed("archive", LEASE).doubted(UnixMillis(9), true);
        let again = redirected.claimed(&who(0), claim("c2", 900));
        let trail = again.trail.expect("trail");
        assert_eq!(
            (trail.first_claim, trail.mailbox.as_str(), trail.sends, trail.lease_ended),
            (100, "archive", 2, None)
        );
        assert_eq!(again.begun, 1, "a claim found over is a beginning that never ended");
    }

    #[test]
    fn a_replay_opens_a_new_round() {
        let failed = Record::unclaimed("j", &who(0))
            .claimed(&who(0), claim("c1", 100))
            .failed(&who(0), &Failure::new(Reason::MailboxFull, "full"));
        let again = failed.claimed(&who(1), claim("c2", 900));
        assert_eq!((again.replay, again.trail.expect("trail").first_claim, again.begun), (1, 900, 0));
    }

    #[test]
    fn settling_is_judged_by_the_noted_end() {
        let doubted = Record::unclaimed("j", &who(0))
            .claimed(&who(0), claim("c1", 1))
            .doubted(UnixMillis(1_000_000), false);
        let read = standing(doubted, Duration::from_secs(30));
        assert_eq!(read.lease_left(), Duration::ZERO);
        assert_eq!(read.settles_in(Duration::from_secs(45)), Duration::from_secs(15));
        assert_eq!(admit(Some(&read), &who(0)), Admission::Doubt);
    }

    #[test]
    fn a_record_of_a_later_version_is_read_without_what_it_adds() {
        let text = r#"{"version":2,"jobId":"j","fingerprint":"f","state":"imported","itemId":"i","changeKey":"c","novelty":{"x":1},
            "trail":{"claimId":"c","worker":"w","firstClaim":1,"mailbox":"m","sends":1,"leaseMs":5,"more":true}}"#;
        let record: Record = serde_json::from_str(text).expect("readable");
        assert_eq!(record.proof().expect("ids").expect("imported").0, proof());
    }
}
