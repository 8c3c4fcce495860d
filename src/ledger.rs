//! Records as conditional objects: what may have happened to a job, written down before it happens.
//!
//! Promises: a write succeeds only over exactly what was read; of two writers one wins. Judges nothing: what a record means is
//! `domain::record`'s. Never retries: a write whose answer was lost is an error, and reading tells what stands there.

mod operation;
mod probe;

use std::sync::{Arc, OnceLock};

use aws_lc_rs::digest::{SHA256, digest};
use aws_sdk_s3::{
    config::{
        ConfigBag, Intercept, RuntimeComponents, interceptors::BeforeDeserializationInterceptorContextRef,
    },
    error::BoxError,
    operation::get_object::GetObjectOutput,
    primitives::DateTime,
};

pub use self::{operation::Operation, probe::ProbeError};
use crate::{
    domain::{
        Dependency, ItemId, JobId, MailboxId, Reason, RestoreError, RestoreJob, TenantId, UnixMillis,
        hex::hex,
        job::ImportMode,
        record::{Record, Standing},
    },
    metrics::Metrics,
    s3_client::{self, Client, Failure, Put, Puts},
};

/// Where the ledger lies.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The store.
    pub client: s3_client::Settings,
    /// The bucket.
    pub bucket: String,
    /// Prefix of every key.
    pub prefix: String,
}

/// The ledger. A cheap handle.
#[derive(Clone, Debug)]
pub struct Ledger {
    client: Client,
    puts: Puts,
    bucket: Arc<str>,
    prefix: Arc<str>,
    metrics: Arc<Metrics>,
}

/// The version of an object that a conditional write is made over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Etag(String);

/// A record as it was read or written, with the version that the next write is made over.
#[derive(Clone, Debug)]
pub struct Held {
    /// The record with the store's times.
    pub standing: Standing,
    /// Its version.
    pub etag: Etag,
}

/// What became of a conditional write.
#[derive(Clone, Debug)]
pub enum Written {
    /// It stands.
    Stands(Etag),
    /// Something else stands there: read.
    Lost,
}

/// Whose an item is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Taken {
    /// This job's.
    Ours,
    /// Another job's.
    Others {
        /// If it was found rather than answered: when no import of that job can appear any more, in the store's time. Until then
        /// the two jobs may have swapped items.
        settles: Option<UnixMillis>,
    },
}

/// Largest record that is read; real ones are below 2 KiB.
const MAX_RECORD: usize = 64 * 1024;

impl Ledger {
    /// Makes the client. Asks no storage.
    ///
    /// # Errors
    /// A sentence for the operator, when a setting cannot be used.
    pub async fn connect(settings: Settings, metrics: Arc<Metrics>) -> Result<Self, String> {
        let client = s3_client::connect(&settings.client).await?;
        operation::at_zero(&metrics);
        let bucket: Arc<str> = settings.bucket.into();
        let puts = Puts::new(client.clone(), Arc::clone(&bucket));
        Ok(Self { client, puts, bucket, prefix: settings.prefix.into(), metrics })
    }

    /// Reads a job's record.
    ///
    /// # Errors
    /// Passing, of the ledger: also for a record that cannot be understood, since nothing may be done over it.
    pub async fn read(&self, job: &JobId) -> Result<Option<Held>, RestoreError> {
        let clock = StoreClock::default();
        let request = self.client.get_object().bucket(&*self.bucket).key(self.record_key(job));
        let object = match Box::pin(request.customize().interceptor(clock.clone()).send()).await {
            Ok(object) => object,
            Err(error) => {
                let failure = Failure::read(&error);
                let missing = is_missing(&failure);
                self.count("read", if missing { "none" } else { "error" });
                return if missing { Ok(None) } else { Err(not_read(&failure)) };
            }
        };
        // Boxed, as every request here: a job that waits does not hold the room of one.
        let held = Box::pin(understand(object, &clock)).await;
        self.count("read", if held.is_ok() { "found" } else { "error" });
        held.map(Some)
    }

    /// Writes a record over what was read, or over nothing.
    ///
    /// # Errors
    /// Passing, of the ledger: whether it stands is not known.
    pub async fn write(
        &self,
        job: &JobId,
        record: &Record,
        over: Option<&Etag>,
        operation: Operation,
    ) -> Result<Written, RestoreError> {
        let body = serde_json::to_vec(record)
            .map_err(|e| passing(format!("a record cannot be written down: {e}")))?;
        self.put(&self.record_key(job), body, over, operation).await
    }

    /// Takes an item for a job: an item belongs to one job only. `settles`: see [`Taken::Others`]; `None` where the import's own
    /// answer named it.
    ///
    /// # Errors
    /// Passing, of the ledger.
    pub async fn take(
        &self,
        job: &JobId,
        tenant: &TenantId,
        mailbox: &MailboxId,
        item: &ItemId,
        settles: Option<UnixMillis>,
    ) -> Result<Taken, RestoreError> {
        let key = self.item_key(tenant, mailbox, item);
        let body = match settles {
            Some(settles) => format!("{job}\n{}", settles.0),
            None => job.to_string(),
        };
        if let Written::Stands(_) = self.put(&key, body.into_bytes(), None, Operation::Take).await? {
            return Ok(Taken::Ours);
        }
        Ok(self.owner(job, &key).await?.unwrap_or(Taken::Others { settles: None }))
    }

    /// Whose an item is already; `None`: nobody has taken it.
    ///
    /// # Errors
    /// Passing, of the ledger.
    pub async fn whose(
        &self,
        job: &JobId,
        tenant: &TenantId,
        mailbox: &MailboxId,
        item: &ItemId,
    ) -> Result<Option<Taken>, RestoreError> {
        self.owner(job, &self.item_key(tenant, mailbox, item)).await
    }

    async fn owner(&self, job: &JobId, key: &str) -> Result<Option<Taken>, RestoreError> {
        let request = self.client.get_object().bucket(&*self.bucket).key(key);
        let object = match Box::pin(request.send()).await {
            Ok(object) => object,
            Err(error) => {
                let failure = Failure::read(&error);
                return if is_missing(&failure) { Ok(None) } else { Err(not_read(&failure)) };
            }
        };
        let body = object.body.collect().await.map_err(|_| passing("an item's index broke off".into()))?;
        Ok(Some(read_index(&body.into_bytes(), job)))
    }

    async fn put(
        &self,
        key: &str,
        body: Vec<u8>,
        over: Option<&Etag>,
        operation: Operation,
    ) -> Result<Written, RestoreError> {
        let over = over.map(|Etag(etag)| &**etag);
        let put = Put { key, content_type: "application/json", body, over };
        let written = judge(self.puts.put(put).await, over.is_some());
        let outcome = match &written {
            Ok(Written::Stands(_)) => "stands",
            Ok(Written::Lost) => "lost",
            Err(_) => "error",
        };
        self.count(operation.as_str(), outcome);
        written
    }

    /// Asks whether the store answers: for the end of a pause.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub async fn reachable(&self) -> Result<(), RestoreError> {
        let id = JobId::parse("restore-worker probe").map_err(|e| passing(e.to_string()))?;
        self.read(&id).await.map(drop)
    }

    fn record_key(&self, job: &JobId) -> String {
        let hash = hex(&digest(&SHA256, job.as_str().as_bytes()).as_ref()[..1]);
        format!("{}jobs/{hash}/{}.json", self.prefix, percent_encode(job.as_str()))
    }

    fn item_key(&self, tenant: &TenantId, mailbox: &MailboxId, item: &ItemId) -> String {
        let hash = hash_of(&[tenant.as_str(), mailbox.as_str(), item.as_str()]);
        format!("{}items/{}/{hash}", self.prefix, &hash[..2])
    }

    fn count(&self, operation: &str, outcome: &str) {
        self.metrics.ledger_operations.with_label_values(&[operation, outcome]).inc();
    }
}

async fn understand(object: GetObjectOutput, clock: &StoreClock) -> Result<Held, RestoreError> {
    let unreadable = |why: &str| passing(format!("a record cannot be read: {why}"));
    if object.content_length().is_none_or(|n| usize::try_from(n).is_ok_and(|n| n > MAX_RECORD)) {
        return Err(unreadable("its length is missing or too large"));
    }
    let etag =
        object.e_tag().map(|e| Etag(e.to_owned())).ok_or_else(|| unreadable("the answer has no ETag"))?;
    let written = object
        .last_modified()
        .and_then(millis)
        .ok_or_else(|| unreadable("the answer has no Last-Modified"))?;
    let now = *clock.0.get().ok_or_else(|| unreadable("the answer has no Date"))?;
    let body = object.body.collect().await.map_err(|_| unreadable("its body broke off"))?.into_bytes();
    let record =
        serde_json::from_slice(&body).map_err(|_| unreadable("it is no record that this version knows"))?;
    Ok(Held { standing: Standing { record, written, now }, etag })
}

/// What became of a PUT. A creation is lost with 412, or 409 where two race (AWS); a change with 412, 409 or, the object being
/// gone, 404. Source: Amazon S3 User Guide, "Conditional writes".
fn judge(put: Result<Option<String>, Failure>, change: bool) -> Result<Written, RestoreError> {
    match put {
        Ok(Some(etag)) => Ok(Written::Stands(Etag(etag))),
        Ok(None) => Err(passing("the store named no ETag".into())),
        Err(failure) => match failure.status {
            Some(409 | 412) => Ok(Written::Lost),
            Some(404) if change && failure.code.as_deref() != Some("NoSuchBucket") => Ok(Written::Lost),
            Some(_) | None => Err(failure.unavailable(Dependency::Ledger)),
        },
    }
}

/// Whose an item is, by its index object: a job's id, and on a second line when its doubt settles.
fn read_index(body: &[u8], job: &JobId) -> Taken {
    let text = String::from_utf8_lossy(body);
    let (owner, settles) = text.split_once('\n').unwrap_or((&text, ""));
    if owner == job.as_str() {
        return Taken::Ours;
    }
    Taken::Others { settles: settles.parse().ok().map(UnixMillis) }
}

/// No such object; a bucket that is missing is no answer.
fn is_missing(failure: &Failure) -> bool {
    failure.status == Some(404) && failure.code.as_deref() != Some("NoSuchBucket")
}

/// Rights may be taken away while the worker runs: see [`Ledger::probe`].
fn not_read(failure: &Failure) -> RestoreError {
    let mut error = failure.unavailable(Dependency::Ledger);
    if failure.status == Some(403) && !failure.keys_refused() {
        error.message.push_str("; a missing record looks so, too, while the keys lack s3:ListBucket");
    }
    error
}

fn passing(why: String) -> RestoreError {
    RestoreError::passing(Dependency::Ledger, Reason::StorageUnavailable, why)
}

fn millis(moment: &DateTime) -> Option<UnixMillis> {
    moment.to_millis().ok().map(UnixMillis)
}

/// Listens for the answer's `Date`, which the SDK does not pass on: the store's own clock.
#[derive(Clone, Debug, Default)]
struct StoreClock(Arc<OnceLock<UnixMillis>>);

impl Intercept for StoreClock {
    fn name(&self) -> &'static str {
        "StoreClock"
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if let Some(date) = s3_client::date_of(context.response()) {
            // One answer, one Date: the first stays.
            self.0.get_or_init(|| UnixMillis(date.unix_timestamp().saturating_mul(1_000)));
        }
        Ok(())
    }
}

/// Hash of everything that makes a job what it is; jobs of one id must agree in it.
#[must_use]
pub fn fingerprint(job: &RestoreJob) -> String {
    let (item, key) = match &job.mode {
        ImportMode::Create => ("", ""),
        ImportMode::Update { item_id, change_key } => (item_id.as_str(), change_key.as_str()),
    };
    let blob = &job.blob;
    let range = blob.range.map_or(String::new(), |r| format!("{}+{}", r.offset, r.length));
    let form = format!("{:?} {:?}", blob.encoding, blob.compression);
    hash_of(&[
        job.tenant.as_str(),
        job.mailbox.as_str(),
        job.folder.as_str(),
        job.mode.as_str(),
        item,
        key,
        &blob.bucket,
        &blob.key,
        blob.version_id.as_deref().unwrap_or_default(),
        &range,
        &form,
    ])
}

/// SHA-256 in hexadecimal over parts that cannot run into each other.
fn hash_of(parts: &[&str]) -> String {
    let mut context = aws_lc_rs::digest::Context::new(&SHA256);
    for part in parts {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part.as_bytes());
    }
    hex(context.finish().as_ref())
}

/// A job id as one segment of a key that any store and tool takes.
fn percent_encode(text: &str) -> String {
    use std::fmt::Write as _;
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.') {
            encoded.push(char::from(byte));
        } else {
            write!(encoded, "%{byte:02X}").expect("writing to a String cannot fail");
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_hold_any_job_id() {
        assert_eq!(percent_encode("a/b ~%.c"), "a%2Fb%20%7E%25.c");
    }

    #[test]
    fn an_index_names_its_job_and_when_its_doubt_settles() {
        let job = JobId::parse("j-1").expect("an id");
        for (body, taken) in [
            ("j-1", Taken::Ours),
            ("j-1\n5", Taken::Ours),
            ("j-2", Taken::Others { settles: None }),
            ("j-2\n5", Taken::Others { settles: Some(UnixMillis(5)) }),
            ("j-2\nsoon", Taken::Others { settles: None }),
            ("", Taken::Others { settles: None }),
        ] {
            assert_eq!(read_index(body.as_bytes(), &job), taken, "{body:?}");
        }
    }

    #[test]
    fn parts_do_not_run_into_each_other() {
        assert_ne!(hash_of(&["ab", "c"]), hash_of(&["a", "bc"]));
    }
}
