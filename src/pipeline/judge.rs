//! How an attempt ended → what becomes of the delivery. Pure: no clock, no dice of its own.

use std::time::Duration;

use crate::domain::{
    Dependency, Fault, OursScope, Reason, RestoreError, ThrottleScope,
    event::{Evidence, Failure, Imported},
    job::ItemId,
    retry::Backoff,
};

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The item is in its mailbox.
    Imported(Success),
    /// The record says that the job failed.
    FailedBefore(Failure),
    /// The record says that nobody knows.
    UnknownBefore {
        /// What was told.
        failure: Failure,
        /// The record's claim, against which a new import can be forced.
        claim: Option<String>,
    },
    /// Looking did not tell, and will not.
    Undecidable {
        /// Why.
        failure: Failure,
        /// What is there now, if it could be seen.
        seen: Option<Imported>,
    },
    /// Another claim holds.
    Busy {
        /// Until then at the latest.
        left: Duration,
    },
    /// The record is of a later round.
    LaterRound,
    /// In doubt, and a look proves nothing yet.
    Unsettled {
        /// Until it does.
        left: Duration,
    },
    /// No place or quota in the lane, or the delivery has been held long enough.
    NoRoom {
        /// When to ask again.
        after: Duration,
        /// What it waits for: the label `why`.
        why: &'static str,
    },
    /// The job's tenant is paused.
    TenantPaused {
        /// When one of its jobs may try.
        after: Duration,
    },
    /// A fault, certainly without an import of this attempt.
    Trouble(RestoreError),
    /// Exchange was asked whether a doubtful import had happened: it had not. What the import met is in the error.
    NotImported(RestoreError),
    /// The job killed its worker too often.
    CrashLoop,
    /// The broker gave the job up.
    GivenUp {
        /// Because its time to live was over.
        expired: bool,
    },
    /// `notAfter` has passed.
    Expired,
    /// The process drains, or is paused: the work has not begun, or was ended before it could become an item.
    NotBegun,
}

/// What is known of a success.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Success {
    /// The item.
    pub imported: Imported,
    /// How that is known.
    pub evidence: Evidence,
    /// Further items of the same job.
    pub duplicates: Vec<ItemId>,
}

/// What the pipeline knows beside the end itself.
#[derive(Clone, Copy, Debug)]
pub struct Situation {
    /// Attempts spent before this one.
    pub attempt: u32,
    /// Time parked so far that counts.
    pub parked: Duration,
    /// Whether the dependency has answered another job, or a probe, well since this job's previous attempt.
    pub works_for_others: bool,
    /// Whether this mailbox has had a success since the job was first parked, so that a throttled wait is no failure.
    pub mailbox_succeeds: bool,
    /// 0..1.
    pub dice: f64,
}

/// Limits of patience.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// Then the job fails.
    pub attempts: u32,
    /// Delays between attempts.
    pub backoff: Backoff,
    /// Parked this long, where it counts, the job fails.
    pub max_parked: Duration,
}

/// What becomes of the delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Recorded, told, acked.
    Done(Success),
    /// Again after a while, an attempt spent.
    Retry {
        /// The delay.
        after: Duration,
    },
    /// Again after a while, nothing spent.
    Park {
        /// The delay.
        after: Duration,
        /// What it waits for: the label `why`.
        why: &'static str,
        /// Whether the time counts towards `max_parked`.
        counts: bool,
        /// Whether it may wait in memory: not where memory is what there is no room in.
        may_hold: bool,
    },
    /// Recorded as failed, told, dead-lettered, acked.
    Bury(Failure),
    /// Recorded as unknown, told, dead-lettered, acked.
    Unknown {
        /// Why.
        failure: Failure,
        /// What is there now.
        seen: Option<Imported>,
        /// The record's claim, if it is told again.
        claim: Option<String>,
    },
    /// Back to the queue as it came.
    Return,
}

/// Judges. Every case of [`End`] and [`Fault`] is listed.
#[must_use]
pub fn judge(end: End, situation: &Situation, policy: &Policy) -> Verdict {
    match end {
        End::Imported(success) => Verdict::Done(success),
        End::FailedBefore(failure) => Verdict::Bury(failure),
        End::UnknownBefore { failure, claim } => Verdict::Unknown { failure, seen: None, claim },
        End::Undecidable { failure, seen } => Verdict::Unknown { failure, seen, claim: None },
        End::Busy { left } => park(left + SOON, "claim"),
        End::LaterRound => park(policy.backoff.delay(4, situation.dice, None), "claim"),
        End::Unsettled { left } => park(left + SOON, "doubt"),
        End::NoRoom { after, why } => Verdict::Park { after, why, counts: false, may_hold: false },
        End::TenantPaused { after } => Verdict::Park { after, why: "paused", counts: true, may_hold: true },
        End::Trouble(error) => trouble(error, situation, policy),
        End::NotImported(error) => spend(error, situation, policy, None),
        End::CrashLoop => {
            Verdict::Bury(Failure::new(Reason::CrashLoop, "the job ended its worker again and again"))
        }
        End::GivenUp { expired: true } => Verdict::Bury(Failure::new(
            Reason::JobExpired,
            "the broker dropped the message: its own expiration was over",
        )),
        End::GivenUp { expired: false } => Verdict::Bury(Failure::new(
            Reason::BrokerGaveUp,
            "the broker dropped the message: its delivery limit was reached",
        )),
        End::Expired => Verdict::Bury(Failure::new(Reason::JobExpired, "notAfter has passed")),
        End::NotBegun => Verdict::Return,
    }
}

fn park(after: Duration, why: &'static str) -> Verdict {
    Verdict::Park { after, why, counts: false, may_hold: true }
}

/// Clocks of stores and brokers count whole seconds; a little later is surely not too early.
const SOON: Duration = Duration::from_secs(1);

fn trouble(error: RestoreError, situation: &Situation, policy: &Policy) -> Verdict {
    match error.fault {
        Fault::Job => Verdict::Bury(error.into()),
        Fault::Passing { retry_after, .. } => spend(error, situation, policy, retry_after),
        Fault::Throttled { scope, retry_after, .. } => {
            let counts = scope == ThrottleScope::Mailbox && !situation.mailbox_succeeds;
            let after = policy.backoff.delay(1, situation.dice, retry_after);
            park_or_bury(error, after, "throttled", counts, situation, policy)
        }
        // The pipeline looks before it judges; here nothing could be looked at yet.
        Fault::InDoubt => park(policy.backoff.delay(1, situation.dice, None), "doubt"),
        Fault::Ours { scope: OursScope::Everything } => Verdict::Return,
        Fault::Ours { scope: OursScope::Dependency(_) } => {
            park(policy.backoff.delay(2, situation.dice, None), "paused")
        }
        Fault::Ours { scope: OursScope::Tenant } => {
            let after = policy.backoff.delay(4, situation.dice, None);
            park_or_bury(error, after, "paused", true, situation, policy)
        }
    }
}

/// Passing trouble spends an attempt only while the dependency works for others: else it is the dependency's, and an outage of
/// any length buries nothing. What the ledger meets is never the job's.
fn spend(
    error: RestoreError,
    situation: &Situation,
    policy: &Policy,
    retry_after: Option<Duration>,
) -> Verdict {
    let after = policy.backoff.delay(situation.attempt, situation.dice, retry_after);
    let ledger = matches!(error.fault, Fault::Passing { dependency: Dependency::Ledger, .. });
    if ledger || !situation.works_for_others {
        return park(after, "retry");
    }
    if situation.attempt.saturating_add(1) < policy.attempts {
        return Verdict::Retry { after };
    }
    let mut failure = Failure::from(error);
    failure.last = Some(failure.reason);
    failure.reason = Reason::AttemptsExhausted;
    Verdict::Bury(failure)
}

fn park_or_bury(
    error: RestoreError,
    after: Duration,
    why: &'static str,
    counts: bool,
    situation: &Situation,
    policy: &Policy,
) -> Verdict {
    if counts && situation.parked >= policy.max_parked {
        Verdict::Bury(error.into())
    } else {
        Verdict::Park { after, why, counts, may_hold: true }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Limit;

    const HOUR: Duration = Duration::from_hours(1);

    fn policy() -> Policy {
        let backoff = Backoff::try_new(Duration::from_secs(5), Duration::from_mins(10)).expect("valid");
        Policy { attempts: 3, backoff, max_parked: 24 * HOUR }
    }

    fn situation() -> Situation {
        Situation {
            attempt: 0,
            parked: Duration::ZERO,
            works_for_others: true,
            mailbox_succeeds: false,
            dice: 1.0,
        }
    }

    fn passing(dependency: Dependency) -> End {
        End::Trouble(RestoreError::passing(dependency, Reason::StorageUnavailable, "away"))
    }

    fn throttled(scope: ThrottleScope) -> End {
        let fault = Fault::Throttled { scope, limit: Limit::IncomingBytes, retry_after: None };
        End::Trouble(RestoreError::new(fault, Reason::Throttled, "over its limit"))
    }

    fn tenant() -> End {
        End::Trouble(RestoreError::ours(OursScope::Tenant, Reason::TenantNotAuthorized, "no consent"))
    }

    /// What of a verdict the table compares.
    fn short(verdict: &Verdict) -> String {
        match verdict {
            Verdict::Done(_) => "done".into(),
            Verdict::Retry { after } => format!("retry {}", after.as_secs()),
            Verdict::Park { why, counts, .. } => {
                format!("park {why}{}", if *counts { " counted" } else { "" })
            }
            Verdict::Bury(failure) => match failure.last {
                Some(last) => format!("bury {} after {last}", failure.reason),
                None => format!("bury {}", failure.reason),
            },
            Verdict::Unknown { .. } => "unknown".into(),
            Verdict::Return => "return".into(),
        }
    }

    #[test]
    fn whose_trouble_decides() {
        let now = situation();
        let late = Situation { attempt: 2, ..now };
        let alone = Situation { works_for_others: false, attempt: 99, ..now };
        let long = Situation { parked: 24 * HOUR, ..now };
        let flowing = Situation { mailbox_succeeds: true, ..long };
        let job = || End::Trouble(RestoreError::job(Reason::BlobNotFound, "no such object"));
        let everything = RestoreError::ours(OursScope::Everything, Reason::IdentityRejected, "secret");
        let away = RestoreError::ours(
            OursScope::Dependency(Dependency::Storage),
            Reason::StorageUnavailable,
            "away",
        );
        let refused = RestoreError::passing(Dependency::Exchange, Reason::ExchangeUnavailable, "5xx");
        let s = Duration::from_secs;
        for (name, end, situation, expected) in [
            ("the job's own", job(), now, "bury blob_not_found"),
            ("passing", passing(Dependency::Storage), now, "retry 5"),
            (
                "passing, last attempt",
                passing(Dependency::Storage),
                late,
                "bury attempts_exhausted after storage_unavailable",
            ),
            ("passing, works for nobody", passing(Dependency::Storage), alone, "park retry"),
            ("the ledger's", passing(Dependency::Ledger), late, "park retry"),
            ("not imported after all", End::NotImported(refused.clone()), now, "retry 5"),
            ("not imported, works for nobody", End::NotImported(refused), alone, "park retry"),
            ("throttled mailbox", throttled(ThrottleScope::Mailbox), now, "park throttled counted"),
            ("throttled for a day", throttled(ThrottleScope::Mailbox), long, "bury throttled"),
            (
                "throttled for a day, but flowing",
                throttled(ThrottleScope::Mailbox),
                flowing,
                "park throttled",
            ),
            ("throttled tenant for a day", throttled(ThrottleScope::Tenant), long, "park throttled"),
            ("tenant paused", tenant(), now, "park paused counted"),
            ("tenant paused for a day", tenant(), long, "bury tenant_not_authorized"),
            ("our credential", End::Trouble(everything), long, "return"),
            ("a dependency", End::Trouble(away), long, "park paused"),
            ("another's claim", End::Busy { left: s(3) }, long, "park claim"),
            ("unsettled", End::Unsettled { left: s(3) }, long, "park doubt"),
            ("no room", End::NoRoom { after: s(3), why: "quota" }, long, "park quota"),
            ("draining", End::NotBegun, now, "return"),
            ("crash loop", End::CrashLoop, now, "bury crash_loop"),
            ("expired", End::Expired, now, "bury job_expired"),
            ("dropped by the broker", End::GivenUp { expired: false }, now, "bury broker_gave_up"),
            ("expired at the broker", End::GivenUp { expired: true }, now, "bury job_expired"),
        ] {
            assert_eq!(short(&judge(end, &situation, &policy())), expected, "{name}");
        }
    }

    #[test]
    fn a_servers_wish_is_obeyed() {
        let asked = Some(Duration::from_mins(20));
        let fault = Fault::Passing { dependency: Dependency::Exchange, retry_after: asked };
        let end = End::Trouble(RestoreError::new(fault, Reason::ExchangeUnavailable, "503"));
        assert_eq!(judge(end, &situation(), &policy()), Verdict::Retry { after: Duration::from_mins(20) });
    }
}
