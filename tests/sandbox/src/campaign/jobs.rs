//! The jobs of a campaign: mostly creations, some updates, copies of one item side by side, ids that are published twice.

use std::collections::BTreeMap;

use anyhow::Result;
use serde_json::Value;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::hex;
use crate::{
    exchange::ItemFacts,
    fts::ItemSpec,
    stack::{FOLDER, Stack, create_job, update_job},
};

/// Mailboxes of a campaign.
const MAILBOXES: u64 = 5;

/// A job as the oracle knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Job {
    pub(super) id: String,
    pub(super) mailbox: String,
    /// SHA-256 of the item's bytes: shared by copies.
    pub(super) sha256: String,
    /// The item to be written over, and the SHA-256 that it had.
    pub(super) update: Option<(String, String)>,
    /// Whether the item can be recognised.
    pub(super) keyed: bool,
}

/// Makes jobs, the same ones for a seed.
pub(super) struct Jobs {
    dice: fastrand::Rng,
    mailboxes: Vec<String>,
    made: u64,
    items: u64,
}

/// One publication.
pub(super) struct Publication {
    pub(super) job: Job,
    pub(super) body: Value,
    pub(super) own_reply: bool,
}

impl Jobs {
    pub(super) fn new(stack: &Stack, seed: u64) -> Self {
        let mailboxes = (0..MAILBOXES).map(|n| stack.mailbox(&format!("campaign{n}"))).collect();
        Self { dice: fastrand::Rng::with_seed(seed ^ 0x6a6f_6273), mailboxes, made: 0, items: 0 }
    }

    /// The mailboxes.
    pub(super) fn mailboxes(&self) -> &[String] {
        &self.mailboxes
    }

    /// The next publications, to be made side by side. Their blobs are in storage, their items in place.
    pub(super) fn next(&mut self, stack: &Stack) -> Vec<Publication> {
        let mailbox = self.dice.choice(&self.mailboxes).cloned().unwrap_or_default();
        match self.dice.u32(..100) {
            0..=59 => self.creations(stack, &mailbox, 1, true),
            60..=79 => {
                let copies = self.dice.usize(2..=4);
                self.creations(stack, &mailbox, copies, true)
            }
            80..=81 => self.creations(stack, &mailbox, 1, false),
            82..=89 => {
                let mut twice = self.creations(stack, &mailbox, 1, true);
                let again = twice.first().map(|first| Publication {
                    job: first.job.clone(),
                    body: first.body.clone(),
                    own_reply: first.own_reply,
                });
                twice.extend(again);
                twice
            }
            _ => self.update(stack, &mailbox),
        }
    }

    fn item(&mut self, keyed: bool) -> ItemSpec {
        self.items += 1;
        let size = match self.dice.u32(..20) {
            0..=14 => self.dice.usize(3_000..40_000),
            15..=18 => self.dice.usize(64_000..250_000),
            _ => self.dice.usize(280_000..600_000),
        };
        let mut item = ItemSpec::mail(self.items, size);
        if !keyed {
            item.search_key = None;
        }
        item
    }

    fn id(&mut self) -> String {
        self.made += 1;
        format!("job-{:06}", self.made)
    }

    fn creations(&mut self, stack: &Stack, mailbox: &str, copies: usize, keyed: bool) -> Vec<Publication> {
        let item = self.item(keyed);
        let key = format!("items/{}", self.items);
        stack.store(&key, &item);
        let sha256 = hex(&item.sha256());
        let copy = |id: String| Publication {
            body: create_job(&id, mailbox, &key),
            own_reply: self.made.is_multiple_of(2),
            job: Job { id, mailbox: mailbox.into(), sha256: sha256.clone(), update: None, keyed },
        };
        let ids: Vec<String> = (0..copies).map(|n| format!("job-{:06}", self.made + 1 + n as u64)).collect();
        let publications = ids.into_iter().map(copy).collect();
        self.made += copies as u64;
        publications
    }

    fn update(&mut self, stack: &Stack, mailbox: &str) -> Vec<Publication> {
        let (before, after) = (self.item(true), self.item(true));
        let facts = ItemFacts {
            message_class: before.class.clone(),
            subject: before.subject.clone(),
            search_key: before.search_key.map(Vec::from),
            delivery_time: before.delivery_time,
            properties: Vec::new(),
        };
        let (item, change_key) = stack.exchange.add_item(mailbox, FOLDER, facts, &before.to_bytes());
        let key = format!("items/{}", self.items);
        stack.store(&key, &after);
        let id = self.id();
        vec![Publication {
            body: update_job(&id, mailbox, &key, &item, &change_key),
            own_reply: self.made.is_multiple_of(2),
            job: Job {
                id,
                mailbox: mailbox.into(),
                sha256: hex(&after.sha256()),
                update: Some((item, hex(&before.sha256()))),
                keyed: true,
            },
        }]
    }
}

/// What a job was told to have come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) status: String,
    pub(super) item: Option<String>,
    pub(super) duplicates: Vec<String>,
    pub(super) sha256: Option<String>,
    pub(super) reason: Option<String>,
    pub(super) recovered: bool,
    pub(super) completed_at: Option<OffsetDateTime>,
    /// The event itself, for the story.
    pub(super) text: String,
}

impl Told {
    /// Reads an event; gives the job's id and the worker's name, too.
    pub(super) fn read(event: &Value) -> Result<(String, String, Self)> {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let id = text(&event["jobId"]).ok_or_else(|| anyhow::anyhow!("an event without jobId: {event}"))?;
        let told = Self {
            status: text(&event["status"]).unwrap_or_default(),
            item: text(&event["itemId"]),
            duplicates: event["duplicates"].as_array().into_iter().flatten().filter_map(text).collect(),
            sha256: text(&event["sha256"]),
            reason: text(&event["error"]["code"]),
            recovered: event["recovered"].as_bool().unwrap_or_default(),
            completed_at: event["completedAt"]
                .as_str()
                .and_then(|at| OffsetDateTime::parse(at, &Rfc3339).ok()),
            text: event.to_string(),
        };
        Ok((id, text(&event["worker"]["name"]).unwrap_or_default(), told))
    }

    /// Items that it names as the job's.
    pub(super) fn names(&self) -> impl Iterator<Item = &String> {
        self.item.iter().chain(&self.duplicates)
    }
}

/// Everything told, by job id.
pub(super) type Events = BTreeMap<String, Vec<Told>>;
