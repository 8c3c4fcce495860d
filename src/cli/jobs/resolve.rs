//! `jobs resolve`: a person's word becomes the record, then the event, then the letter goes. In this order, as everywhere:
//! recorded first, told second. Interrupted anywhere, the same command goes on.

use std::path::PathBuf;

use anyhow::{anyhow, bail};

use super::{ledger, read};
use crate::{
    app::StartError,
    broker::{Broker, EventAddress, Letter, Message, PublishError},
    cli::{
        Exit,
        operator::{self, Trouble, patiently, print, told},
    },
    config::Operator,
    contract::{Rendered, Subject, Worker, event},
    domain::{
        Event, Imported, JobId, RestoreJob, TenantId,
        record::Record,
        resolution::{Resolution, Resolved},
    },
    ledger::{Held, Ledger, Operation, Taken, Written, fingerprint},
};

/// Ends a job by a person's knowledge: `imported`, or not imported.
pub(super) async fn resolve(
    job: &JobId,
    imported: Option<Imported>,
    file: Option<PathBuf>,
) -> Result<Exit, Trouble> {
    let resolution = imported.map_or(Resolution::NotImported, Resolution::Imported);
    let settings = operator::settings(file.clone())?;
    let ledger = ledger(file).await?;
    let held = read(&ledger, job).await?;
    let resolved = resolution.resolve(&held.standing.record).map_err(|why| anyhow!("job {job}: {why}"))?;
    let broker = operator::broker(&settings)?;
    let mut letters = patiently(settings.startup_wait, async || broker.letters().await).await?;
    let mut letter = None;
    while let Some(next) = letters.next().await? {
        // A letter of the same id with another payload is another message's.
        let same =
            |found: &RestoreJob| found.id == *job && fingerprint(found) == held.standing.record.fingerprint;
        if next.job.as_ref().is_ok_and(|found| same(found)) {
            letter = Some(next);
        }
    }
    if letter.is_none() {
        told(
            "no dead letter of the job lies here: its event will lack what only the job says (mailbox, folder, blob, metadata), and goes to broker.results",
        );
    }
    write(&ledger, &held, resolved, &resolution, letter.as_ref(), job).await?;
    tell(&broker, &settings, &held.standing.record, &resolution, letter.as_ref(), job).await?;
    if let (Some(letter), Resolution::Imported(_)) = (&letter, &resolution) {
        letter.remove().await?;
    }
    letters.end().await;
    broker.close().await;
    print(&match resolution {
        Resolution::Imported(_) => format!("{job}: recorded as imported, and told\n"),
        Resolution::NotImported => format!(
            "{job}: recorded as not imported, and told; `dead-letters replay --job {job} --force` sends it back\n"
        ),
    })?;
    Ok(Exit::Done)
}

async fn write(
    ledger: &Ledger,
    held: &Held,
    resolved: Resolved,
    resolution: &Resolution,
    letter: Option<&Letter>,
    job: &JobId,
) -> Result<(), Trouble> {
    let Resolved::Write(record) = resolved else { return Ok(()) };
    if let Resolution::Imported(imported) = resolution {
        let found = letter.and_then(|letter| letter.job.as_ref().ok()).map(|job| &**job);
        take(ledger, &held.standing.record, imported, found, job).await?;
    }
    match ledger.write(job, &record, Some(&held.etag), Operation::Resolve).await.map_err(StartError::from)? {
        Written::Stands(_) => Ok(()),
        Written::Lost => {
            Err(anyhow!("the record of job {job} has changed meanwhile; look at it again").into())
        }
    }
}

/// An item that a job made is its own, as after an answered import. What it takes to say so is in the job, and in its last claim.
async fn take(
    ledger: &Ledger,
    record: &Record,
    imported: &Imported,
    found: Option<&RestoreJob>,
    job: &JobId,
) -> Result<(), Trouble> {
    let claim = record.trail.as_ref();
    let mode = found.map(|job| job.mode.as_str()).or_else(|| claim?.mode.as_deref());
    let tenant = found.map(|job| job.tenant.clone());
    let tenant = tenant.or_else(|| TenantId::parse(claim?.tenant.as_deref()?).ok());
    let mailbox = record.posted_to().or_else(|| found.map(|job| job.mailbox.clone()));
    let (tenant, mailbox) = match (mode, tenant, mailbox) {
        (Some("update"), ..) => return Ok(()),
        (_, Some(tenant), Some(mailbox)) => (tenant, mailbox),
        (_, None, _) | (_, _, None) => {
            told(
                "an earlier version claimed the job and noted no tenant: that the item is this job's is in its own record only, and a job in doubt about the same blob could take it, too",
            );
            return Ok(());
        }
    };
    match ledger.take(job, &tenant, &mailbox, &imported.item_id, None).await.map_err(StartError::from)? {
        Taken::Ours => Ok(()),
        Taken::Others { .. } => {
            Err(anyhow!("the item belongs to another job; this job's item is another one, or it has none")
                .into())
        }
    }
}

async fn tell(
    broker: &Broker,
    settings: &Operator,
    record: &Record,
    resolution: &Resolution,
    letter: Option<&Letter>,
    job: &JobId,
) -> Result<(), Trouble> {
    let now = operator::now();
    let journey = letter.map(|letter| letter.message.journey(now)).unwrap_or_default();
    let event = Event::bare(resolution.outcome(), record.replay.max(journey.replay));
    let found = letter.and_then(|letter| letter.job.as_ref().ok()).map(|job| &**job);
    let message = letter.map_or_else(Message::none, |letter| letter.message.clone());
    let subject = Subject { job_id: job.as_str(), job: found, body: message.body() };
    let worker = Worker { name: settings.broker.worker.clone(), version: env!("CARGO_PKG_VERSION").into() };
    let rendered = event::render(subject, journey.submitted_by.as_deref(), &event, &worker, now)
        .map_err(anyhow::Error::from)?;
    Ok(publish(broker, &rendered, &message, job).await?)
}

/// To the job's own reply queue, else to `broker.results`.
async fn publish(broker: &Broker, rendered: &Rendered, message: &Message, job: &JobId) -> anyhow::Result<()> {
    let own = broker.reply_queue(message);
    let publisher = broker.publisher();
    let told = match own {
        Some(queue) => {
            publisher.event(EventAddress::ReplyTo(queue), rendered, message, job.as_str(), None).await
        }
        None => Err(PublishError::Refused),
    };
    let told = match told {
        Err(PublishError::Unroutable(_) | PublishError::Refused) => {
            publisher.event(EventAddress::Results, rendered, message, job.as_str(), own).await
        }
        told @ (Ok(()) | Err(PublishError::Unconfirmed(_))) => told,
    };
    if let Err(error) = told {
        bail!(
            "the record stands, but its event could not be published: {error}; the same command tries again"
        );
    }
    Ok(())
}
