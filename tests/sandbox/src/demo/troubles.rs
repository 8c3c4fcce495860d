//! What is put in the worker's way, so that a demo shows more than fair weather.

use std::time::Duration;

use anyhow::Result;
use restore_sandbox::{
    exchange::{self, Answer, Cut, Operation},
    s3,
    stack::Stack,
};

use super::plan::Plan;

/// What is there, with the script's names for it.
pub(super) struct Troubles {
    exchange: Vec<(&'static str, exchange::FaultId)>,
    storage: Vec<(&'static str, s3::FaultId)>,
}

impl Troubles {
    /// Spreads them over the run.
    pub(super) fn put_in_the_way(stack: &Stack, plan: &Plan) -> Result<Self> {
        use exchange::Effect;
        let limit = |name| Effect::Refuse(Answer::too_many(name, Some(Duration::from_secs(1))));
        let unavailable =
            || Answer::error(503, "ServiceUnavailable", "The service is temporarily unavailable.");
        let of_imports = [
            ("429 by Exchange", 4, limit("MailboxConcurrency")),
            ("429 by Exchange", 3, limit("IncomingBytes")),
            ("503 before the upload", 4, Effect::Refuse(unavailable())),
            ("503 after the upload", 3, Effect::RefuseAfterBody(unavailable())),
            ("upload cut", 2, Effect::CutInBody { after: 2_000, cut: Cut::Reset }),
            ("session ended early", 1, Effect::EndSession { status: 401 }),
        ];
        let mut exchange = Vec::new();
        for (kind, (name, times, effect)) in of_imports.into_iter().enumerate() {
            for n in 0..times {
                // Later in the run each, none of two kinds at the same request.
                let skip = plan.items.len() as u64 * (n + 1) / (times + 2) + kind as u64;
                let fault = exchange::Fault::new(Operation::Import, effect.clone()).skip(skip);
                exchange.push((name, stack.exchange.add_fault(fault)?));
            }
        }
        // Of a create a look tells whether it was imported. Of an update it does not: somebody else may have changed the item.
        let lost = [
            ("imported, but the answer lost", Effect::CutAfter(Cut::Reset)),
            ("imported, but the answer lost", Effect::HalfAnswer),
            ("imported, but answered 503", Effect::AnswerInstead(unavailable())),
        ];
        for ((name, effect), key) in lost.into_iter().zip(plan.some_creates(3)) {
            let fault = exchange::Fault::new(Operation::Import, effect).search_key(key);
            exchange.push((name, stack.exchange.add_fault(fault)?));
        }
        let session = exchange::Fault::new(Operation::OpenSession, Effect::Refuse(unavailable())).skip(3);
        exchange.push(("503 at a session", stack.exchange.add_fault(session)?));
        let faults = stack.s3.faults();
        let of_storage = [
            ("503 by S3", 3, s3::Effect::Answer { status: 503, code: "SlowDown" }),
            ("download cut", 2, s3::Effect::CutBody(2_000)),
        ];
        let storage = of_storage.map(|(name, times, effect)| {
            let fault = s3::Fault::new(effect).key("backups/demo/").times(times).chance(0.05);
            (name, faults.add(fault))
        });
        Ok(Self { exchange, storage: storage.into() })
    }

    /// What has happened of it.
    pub(super) fn describe(&self, stack: &Stack) -> String {
        let exchange = self.exchange.iter().map(|(name, id)| (*name, stack.exchange.fired(*id)));
        let storage = self.storage.iter().map(|(name, id)| (*name, stack.s3.faults().fired(*id)));
        let mut sums: Vec<(&str, u64)> = Vec::new();
        for (name, fired) in exchange.chain(storage).filter(|(_, fired)| *fired > 0) {
            match sums.last_mut() {
                Some((last, sum)) if *last == name => *sum += fired,
                Some(_) | None => sums.push((name, fired)),
            }
        }
        let texts: Vec<String> = sums.into_iter().map(|(name, fired)| format!("{name} ×{fired}")).collect();
        let lines: Vec<String> = texts.chunks(3).map(|three| three.join(", ")).collect();
        lines.join(",\n               ")
    }
}
