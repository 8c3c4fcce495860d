//! Which letters are meant: every condition that is given must hold.

use std::time::Duration;

use super::facts::Facts;
use crate::{
    config::parse_duration,
    domain::{Reason, UnixMillis},
};

/// Conditions; none means every letter.
#[derive(Clone, Debug, Default, clap::Args)]
pub(in crate::cli) struct Filter {
    /// Only letters with this reason code; may be given more than once
    #[arg(long, value_name = "CODE", value_parser = reason)]
    reason: Vec<String>,
    /// Only jobs of this mailbox
    #[arg(long, value_name = "ID")]
    mailbox: Option<String>,
    /// Only jobs of this tenant (as the job names it)
    #[arg(long, value_name = "ID")]
    tenant: Option<String>,
    /// Only jobs of this restore
    #[arg(long, value_name = "ID")]
    restore_id: Option<String>,
    /// Only this job; may be given more than once
    #[arg(long, value_name = "ID")]
    job: Vec<String>,
    /// Only jobs that a worker first received longer ago, for example 2h
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    older_than: Option<Duration>,
    /// Only jobs that a worker first received within this time
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    newer_than: Option<Duration>,
}

fn reason(word: &str) -> Result<String, String> {
    match Reason::parse(word) {
        Some(reason) => Ok(reason.as_str().to_owned()),
        None => Err(format!(
            "there is no such reason; the codes are {}",
            Reason::ALL.map(Reason::as_str).join(", ")
        )),
    }
}

impl Filter {
    /// One job's letters.
    pub(super) fn of_job(id: &str) -> Self {
        Self { job: vec![id.to_owned()], ..Self::default() }
    }

    /// Whether a letter is meant. A letter whose value cannot be read does not match a condition on it.
    pub(super) fn matches(&self, facts: &Facts, now: UnixMillis) -> bool {
        let is = |wanted: &Option<String>, actual: &Option<String>| wanted.is_none() || wanted == actual;
        let among = |wanted: &[String], actual: &Option<String>| {
            wanted.is_empty() || actual.as_ref().is_some_and(|actual| wanted.contains(actual))
        };
        let age = facts.received.map(|received| now.since(received));
        among(&self.reason, &facts.reason)
            && among(&self.job, &facts.job_id)
            && is(&self.mailbox, &facts.mailbox_id)
            && is(&self.tenant, &facts.tenant_id)
            && is(&self.restore_id, &facts.restore_id)
            && self.older_than.is_none_or(|least| age.is_some_and(|age| age > least))
            && self.newer_than.is_none_or(|most| age.is_some_and(|age| age <= most))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_condition_must_hold() {
        let text = |text: &str| Some(text.to_owned());
        let facts = Facts {
            job_id: text("j-1"),
            reason: text("mailbox_full"),
            mailbox_id: text("m"),
            tenant_id: text("t"),
            restore_id: text("r"),
            received: Some(UnixMillis(1_000)),
            ..Facts::default()
        };
        let now = UnixMillis(61_000);
        let none = Filter::default;
        let minute = Some(Duration::from_mins(1));
        for (expected, filter) in [
            (true, none()),
            (true, Filter { reason: vec!["blob_not_found".into(), "mailbox_full".into()], ..none() }),
            (false, Filter { reason: vec!["blob_not_found".into()], ..none() }),
            (true, Filter { mailbox: text("m"), tenant: text("t"), restore_id: text("r"), ..none() }),
            (false, Filter { mailbox: text("m"), tenant: text("other"), ..none() }),
            (true, Filter::of_job("j-1")),
            (false, Filter::of_job("j-2")),
            (false, Filter { older_than: minute, ..none() }),
            (true, Filter { newer_than: minute, ..none() }),
        ] {
            assert_eq!(filter.matches(&facts, now), expected, "{filter:?}");
        }
        let unreadable = Facts::default();
        assert!(none().matches(&unreadable, now));
        for filter in [Filter::of_job("j-1"), Filter { newer_than: minute, ..none() }] {
            assert!(!filter.matches(&unreadable, now), "{filter:?}");
        }
    }

    #[test]
    fn a_reason_that_there_is_not_is_told() {
        assert_eq!(reason("mailbox_full").as_deref(), Ok("mailbox_full"));
        assert!(reason("mailbox_ful").expect_err("a typing error").contains("mailbox_full"));
    }
}
