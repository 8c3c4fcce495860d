//! Everything that goes wrong beside the workers: storage, ledger, Exchange, identity, answers, late commits.

use std::{collections::BTreeMap, time::Duration};

use anyhow::Result;
use clap::ValueEnum;

use crate::{
    exchange::{Answer, Cut, Effect, Fault, FaultId, Meanwhile, Operation, When},
    s3,
    stack::{BLOBS, RECORDS, Stack, TENANT},
};

/// Families of faults, each of which can be left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Family {
    /// SIGKILL.
    Kills,
    /// SIGSTOP.
    Freezes,
    /// The broker killed and started again.
    Broker,
    /// Connections to the broker closed.
    Connections,
    /// Outages and refusals of storage, blobs and ledger alike, and lost answers of the ledger.
    Storage,
    /// Outages and refusals of Exchange.
    Exchange,
    /// Outages of the token endpoint.
    Identity,
    /// Answers lost after the item was stored.
    Answers,
    /// Items stored after the client gave up.
    Late,
}

/// A trouble that lasts a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Trouble {
    StorageOutage,
    BlobsRefused,
    LedgerRefused,
    ExchangeOutage,
    ExchangeRefuses,
    Throttling,
    IdentityOutage,
    SessionsEnded,
}

impl Trouble {
    pub(super) const ALL: [Self; 8] = [
        Self::StorageOutage,
        Self::BlobsRefused,
        Self::LedgerRefused,
        Self::ExchangeOutage,
        Self::ExchangeRefuses,
        Self::Throttling,
        Self::IdentityOutage,
        Self::SessionsEnded,
    ];

    pub(super) const fn family(self) -> Family {
        match self {
            Self::StorageOutage | Self::BlobsRefused | Self::LedgerRefused => Family::Storage,
            Self::ExchangeOutage | Self::ExchangeRefuses | Self::Throttling | Self::SessionsEnded => {
                Family::Exchange
            }
            Self::IdentityOutage => Family::Identity,
        }
    }

    pub(super) const fn describe(self) -> &'static str {
        match self {
            Self::StorageOutage => "storage away",
            Self::BlobsRefused => "blobs: 503",
            Self::LedgerRefused => "ledger: 500, 503",
            Self::ExchangeOutage => "Exchange away",
            Self::ExchangeRefuses => "Exchange: 503",
            Self::Throttling => "Exchange: 429",
            Self::IdentityOutage => "identity: 503",
            Self::SessionsEnded => "sessions ended",
        }
    }

    /// Brings it about for a while.
    pub(super) async fn last(self, stack: &Stack, time: Duration) -> Result<()> {
        let (storage, exchange) = (stack.s3.faults(), &stack.exchange);
        let everything =
            [Operation::OpenSession, Operation::Import, Operation::ListItems, Operation::ReadItem];
        let of_exchange = |effect: Effect| {
            let faults =
                everything.into_iter().map(|op| exchange.add_fault(Fault::new(op, effect.clone()).always()));
            faults.collect::<Result<Vec<FaultId>>>()
        };
        let of_storage = |bucket, status, code| {
            storage.add(s3::Fault::new(s3::Effect::Answer { status, code }).key(bucket).always().chance(0.8))
        };
        let mut theirs = Vec::new();
        let mut ours = Vec::new();
        match self {
            Self::StorageOutage => storage.set_out(true),
            Self::BlobsRefused => ours.push(of_storage(BLOBS, 503, "SlowDown")),
            Self::LedgerRefused => {
                ours.push(of_storage(RECORDS, 500, "InternalError"));
                ours.push(of_storage(RECORDS, 503, "ServiceUnavailable"));
            }
            Self::ExchangeOutage => theirs = of_exchange(Effect::CutBeforeBody(Cut::Reset))?,
            Self::ExchangeRefuses => {
                theirs = of_exchange(Effect::Refuse(Answer::error(
                    503,
                    "ErrorServerBusy",
                    "The server is busy.",
                )))?;
            }
            Self::Throttling => theirs = exchange.throttle_tenant(TENANT, Some(Duration::from_secs(1)))?,
            Self::IdentityOutage => {
                let refusal = Effect::Refuse(Answer::error(503, "temporarily_unavailable", "Try again."));
                theirs.push(exchange.add_fault(Fault::new(Operation::Token, refusal).always())?);
                exchange.invalidate_tokens();
            }
            Self::SessionsEnded => exchange.end_sessions(None),
        }
        tokio::time::sleep(time).await;
        storage.set_out(false);
        for id in ours {
            storage.clear(id);
        }
        for id in theirs {
            exchange.clear_fault(id);
        }
        Ok(())
    }
}

/// Troubles that may meet any request while the campaign lasts.
pub(super) struct Standing {
    storage: Vec<(&'static str, s3::FaultId)>,
}

impl Standing {
    /// Puts them in the way.
    pub(super) fn put_in_the_way(stack: &Stack, has: impl Fn(Family) -> bool) -> Result<Self> {
        let import = |effect, chance| {
            stack.exchange.add_fault(Fault::new(Operation::Import, effect).always().chance(chance)).map(drop)
        };
        if has(Family::Late) {
            for (ms, meanwhile) in [
                (300, Meanwhile::Cut(Cut::Reset)),
                (900, Meanwhile::Timeout),
                (1_500, Meanwhile::Silence),
                (1_900, Meanwhile::Cut(Cut::Close)),
                (1_900, Meanwhile::Timeout),
            ] {
                import(Effect::LateCommit { when: When::After(Duration::from_millis(ms)), meanwhile }, 0.01)?;
            }
        }
        if has(Family::Answers) {
            let gateway = Answer::error(504, "GatewayTimeout", "The request timed out.");
            for (effect, chance) in [
                (Effect::CutAfter(Cut::Close), 0.012),
                (Effect::CutAfter(Cut::Reset), 0.012),
                (Effect::Silence, 0.012),
                (Effect::AnswerInstead(gateway), 0.012),
                (Effect::HalfAnswer, 0.006),
                (Effect::WithoutItemId, 0.006),
                (Effect::WaitAfter(When::After(Duration::from_millis(1_500))), 0.006),
            ] {
                import(effect, chance)?;
            }
        }
        if has(Family::Exchange) {
            import(Effect::SlowBody { bytes_per_second: 90_000 }, 0.03)?;
        }
        let mut storage = Vec::new();
        if has(Family::Storage) {
            let faults = stack.s3.faults();
            let put =
                |effect| s3::Fault::new(effect).method(hyper::Method::PUT).key(RECORDS).always().chance(0.01);
            for (what, fault) in [
                ("ledger: answers of writes lost", put(s3::Effect::LoseAnswer)),
                ("ledger: writes lost", put(s3::Effect::Cut)),
                ("ledger: writes late", put(s3::Effect::Delay(Duration::from_millis(700)))),
                (
                    "blobs: cut in the middle",
                    s3::Fault::new(s3::Effect::CutBody(2_500)).key(BLOBS).always().chance(0.02),
                ),
            ] {
                storage.push((what, faults.add(fault)));
            }
        }
        Ok(Self { storage })
    }

    /// How often each has happened.
    pub(super) fn fired(&self, stack: &Stack) -> BTreeMap<&'static str, u64> {
        self.storage.iter().map(|(what, id)| (*what, stack.s3.faults().fired(*id))).collect()
    }
}

/// Effects that lose an answer after the item was stored, by the model's names.
pub(super) const LOST_ANSWERS: [&str; 6] =
    ["cut_after", "silence", "answer_instead", "half_answer", "without_item_id", "wait_after"];
