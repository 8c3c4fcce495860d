//! Bytes → job. Unknown fields are refused at every level but `metadata`, so that a typing error never restores to the
//! wrong place nor switches a check off.

use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema};
use serde::{Deserialize, de::IgnoredAny};
use serde_json::{json, value::RawValue};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::names::{JOB_TYPE, MAX_JOB};
use crate::domain::{
    BlobRef, ByteRange, ChangeKey, Compression, Encoding, FolderId, GraphVersion, ImportMode, Invalid,
    ItemId, JobId, MailboxId, Metadata, Reason, RestoreJob, TenantId, UnixMillis, hex::unhex,
};

/// Why bytes are no job; keeps the job id if that much could be read, so that its emitter can be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Malformed {
    /// `job_malformed` or `job_version_unsupported`.
    pub reason: Reason,
    /// What is wrong: one line, at most 500 characters.
    pub why: String,
    /// The job's id, if it could be read.
    pub job_id: Option<JobId>,
}

/// Longest explanation.
const MAX_WHY: usize = 500;

impl Malformed {
    /// A refusal; `why` is cut and freed of control characters, since parts of it were written by others.
    #[must_use]
    pub fn new(reason: Reason, why: &str, job_id: Option<JobId>) -> Self {
        let why = why.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_WHY).collect();
        Self { reason, why, job_id }
    }
}

/// How the job is wrapped, by the message's properties.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wrapping<'a> {
    /// AMQP `content-type`.
    pub content_type: Option<&'a str>,
    /// AMQP `type`.
    pub kind: Option<&'a str>,
    /// CloudEvents `type` from a header, in binary form.
    pub cloud_event_type: Option<&'a str>,
}

/// Parses jobs.
#[derive(Clone, Debug, Default)]
pub struct Parser {
    /// `identity.tenant_id`: of jobs that name no tenant.
    pub default_tenant: Option<TenantId>,
}

impl Parser {
    /// Parses one message.
    ///
    /// # Errors
    /// [`Malformed`]: the message is no job, or no job for this worker.
    pub fn parse(&self, body: &[u8], wrapping: Wrapping<'_>) -> Result<RestoreJob, Malformed> {
        self.job(body, wrapping).map_err(|(reason, why)| Malformed::new(reason, &why, read_id(body)))
    }

    fn job(&self, body: &[u8], wrapping: Wrapping<'_>) -> Result<RestoreJob, (Reason, String)> {
        if body.len() > MAX_JOB {
            return Err(malformed(format!(
                "a job is at most {MAX_JOB} bytes, this message has {}",
                body.len()
            )));
        }
        for kind in [wrapping.kind, wrapping.cloud_event_type].into_iter().flatten() {
            known_type(kind)?;
        }
        let wire = match media_type(wrapping.content_type)? {
            Media::Job => from_json::<WireJob>(body)?,
            Media::CloudEvent => unwrap_cloud_event(body)?,
        };
        self.check(wire)
    }

    fn check(&self, wire: WireJob<'_>) -> Result<RestoreJob, (Reason, String)> {
        Ok(RestoreJob {
            id: JobId::parse(&wire.job_id).map_err(invalid)?,
            restore_id: short("restoreId", wire.restore_id)?,
            requested_by: short("requestedBy", wire.requested_by)?,
            tenant: self.tenant(wire.tenant_id.as_deref())?,
            mailbox: MailboxId::parse(&wire.mailbox_id).map_err(invalid)?,
            folder: FolderId::parse(&wire.folder_id).map_err(invalid)?,
            mode: mode(wire.mode, wire.item_id.as_deref(), wire.change_key.as_deref())?,
            blob: blob(wire.blob)?,
            graph_version: wire.graph_version.map(WireGraphVersion::into),
            not_after: wire.not_after.as_deref().map(moment).transpose()?,
            metadata: wire
                .metadata
                .map(|raw| Metadata::from_json_text(raw.get()))
                .transpose()
                .map_err(invalid)?,
        })
    }

    fn tenant(&self, named: Option<&str>) -> Result<TenantId, (Reason, String)> {
        match (named, &self.default_tenant) {
            (Some(text), _) => TenantId::parse(text).map_err(invalid),
            (None, Some(default)) => Ok(default.clone()),
            (None, None) => {
                Err(malformed("tenantId: is missing, and identity.tenant_id names no default".into()))
            }
        }
    }
}

fn malformed(why: String) -> (Reason, String) {
    (Reason::JobMalformed, why)
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn invalid(invalid: Invalid) -> (Reason, String) {
    malformed(invalid.to_string())
}

fn known_type(kind: &str) -> Result<(), (Reason, String)> {
    if kind == JOB_TYPE {
        return Ok(());
    }
    let kind: String = kind.chars().take(60).collect();
    Err((
        Reason::JobVersionUnsupported,
        format!("this worker knows {JOB_TYPE}, the message's type is {kind:?}"),
    ))
}

enum Media {
    Job,
    CloudEvent,
}

fn media_type(content_type: Option<&str>) -> Result<Media, (Reason, String)> {
    let Some(content_type) = content_type else { return Ok(Media::Job) };
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match essence.as_str() {
        "application/json" => Ok(Media::Job),
        "application/cloudevents+json" => Ok(Media::CloudEvent),
        other => {
            let other: String = other.chars().take(60).collect();
            Err(malformed(format!(
                "content-type must be application/json or application/cloudevents+json, is {other:?}"
            )))
        }
    }
}

fn from_json<'de, T: Deserialize<'de>>(body: &'de [u8]) -> Result<T, (Reason, String)> {
    let mut json = serde_json::Deserializer::from_slice(body);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        let inner = error.into_inner();
        malformed(if path == "." { inner.to_string() } else { format!("{path}: {inner}") })
    })?;
    json.end().map_err(|error| malformed(error.to_string()))?;
    Ok(value)
}

/// The structured form: CloudEvents 1.0.2, JSON event format, section 3. Extension attributes are allowed, as the
/// specification says; an attribute whose name it forbids is a typing error.
fn unwrap_cloud_event(body: &[u8]) -> Result<WireJob<'_>, (Reason, String)> {
    let event: WireCloudEvent<'_> = from_json(body)?;
    if event.specversion != "1.0" {
        return Err(malformed("specversion: must be 1.0".into()));
    }
    known_type(&event.kind)?;
    let named =
        |name: &str| !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    if let Some(name) = event.extensions.keys().find(|name| !named(name)) {
        let name: String = name.chars().take(60).collect();
        return Err(malformed(format!("{name:?}: is no attribute name of CloudEvents")));
    }
    match event.data {
        Some(data) => {
            from_json(data.get().as_bytes()).map_err(|(reason, why)| (reason, format!("data: {why}")))
        }
        None => Err(malformed("data: is missing".into())),
    }
}

fn short(field: &'static str, text: Option<String>) -> Result<Option<String>, (Reason, String)> {
    match &text {
        Some(t) if t.chars().count() > 200 => {
            Err(invalid(Invalid::new(field, "must be at most 200 characters")))
        }
        Some(t) if t.chars().any(char::is_control) => {
            Err(invalid(Invalid::new(field, "must hold no control characters")))
        }
        Some(_) | None => Ok(text),
    }
}

fn mode(
    mode: WireMode,
    item_id: Option<&str>,
    change_key: Option<&str>,
) -> Result<ImportMode, (Reason, String)> {
    match (mode, item_id, change_key) {
        (WireMode::Create, None, None) => Ok(ImportMode::Create),
        (WireMode::Create, _, _) => Err(malformed("mode: create refuses itemId and changeKey".into())),
        (WireMode::Update, Some(item_id), Some(change_key)) => Ok(ImportMode::Update {
            item_id: ItemId::parse(item_id).map_err(invalid)?,
            change_key: ChangeKey::parse(change_key).map_err(invalid)?,
        }),
        (WireMode::Update, _, _) => Err(malformed("mode: update requires itemId and changeKey".into())),
    }
}

fn blob(wire: WireBlob) -> Result<BlobRef, (Reason, String)> {
    let text = |field, text: String, max: usize| match text.len() {
        0 => Err(invalid(Invalid::new(field, "must not be empty"))),
        n if n > max => Err(invalid(Invalid::new(field, format!("must be at most {max} bytes, is {n}")))),
        _ if text.chars().any(char::is_control) => {
            Err(invalid(Invalid::new(field, "must hold no control characters")))
        }
        _ => Ok(text),
    };
    let range = wire.range.map(|r| ByteRange { offset: r.offset, length: r.length });
    if range.is_some_and(|r| r.length == 0 || r.offset.checked_add(r.length).is_none()) {
        return Err(malformed("blob.range: length must be at least 1".into()));
    }
    Ok(BlobRef {
        bucket: text("blob.bucket", wire.bucket, 255)?,
        // S3's own limit on keys.
        key: text("blob.key", wire.key, 1_024)?,
        version_id: wire.version_id.map(|v| text("blob.versionId", v, 1_024)).transpose()?,
        range,
        encoding: wire.encoding.into(),
        compression: wire.compression.into(),
        size: wire.size,
        sha256: wire.sha256.as_deref().map(digest).transpose()?,
    })
}

fn digest(hex: &str) -> Result<[u8; 32], (Reason, String)> {
    unhex(hex)
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(|| malformed("blob.sha256: must be 64 hexadecimal digits".into()))
}

fn moment(text: &str) -> Result<UnixMillis, (Reason, String)> {
    OffsetDateTime::parse(text, &Rfc3339)
        .ok()
        .and_then(|t| i64::try_from(t.unix_timestamp_nanos() / 1_000_000).ok())
        .map(UnixMillis)
        .ok_or_else(|| malformed("notAfter: must be a time of RFC 3339, such as 2026-12-01T00:00:00Z".into()))
}

/// The job id of a message that is otherwise no job.
fn read_id(body: &[u8]) -> Option<JobId> {
    #[derive(Deserialize)]
    struct OnlyId<'a> {
        #[serde(rename = "jobId", borrow, default)]
        job_id: Option<&'a RawValue>,
        #[serde(borrow, default)]
        data: Option<&'a RawValue>,
    }
    let read = |body: &[u8]| -> Option<(Option<JobId>, Option<String>)> {
        let only: OnlyId<'_> = serde_json::from_slice(body).ok()?;
        let id = only.job_id.and_then(|raw| serde_json::from_str::<String>(raw.get()).ok());
        Some((id.and_then(|id| JobId::parse(&id).ok()), only.data.map(|d| d.get().to_owned())))
    };
    let (id, data) = read(body)?;
    id.or_else(|| read(data?.as_bytes())?.0)
}

/// One item to put back. Unknown fields are refused at every level but `metadata`.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schemars(title = "restore.job.v1", transform = keys_by_mode)]
pub(super) struct WireJob<'a> {
    /// Chosen by the emitter; the idempotency key. Printable ASCII.
    #[schemars(length(min = 1, max = 200), regex(pattern = r"^[ -~]+$"))]
    job_id: String,
    /// Groups the jobs of one restore; echoed.
    #[schemars(length(max = 200), regex(pattern = NO_CONTROLS))]
    restore_id: Option<String>,
    /// For the audit trail; echoed.
    #[schemars(length(max = 200), regex(pattern = NO_CONTROLS))]
    requested_by: Option<String>,
    /// Entra tenant, a GUID or a domain name; default: the worker's `identity.tenant_id`.
    #[schemars(length(min = 1, max = 253), regex(pattern = TENANT))]
    tenant_id: Option<String>,
    /// One path segment; at most 512 bytes.
    #[schemars(length(min = 1, max = 512), regex(pattern = SEGMENT))]
    mailbox_id: String,
    /// The folder that the item goes to. Visible ASCII.
    #[schemars(length(min = 1, max = 1024), regex(pattern = r"^[!-~]+$"))]
    folder_id: String,
    /// A new item, or a new version of an existing one.
    mode: WireMode,
    /// With `update`: the item. Visible ASCII.
    #[schemars(length(min = 1, max = 1024), regex(pattern = r"^[!-~]+$"))]
    item_id: Option<String>,
    /// With `update`: the version that is replaced. Visible ASCII.
    #[schemars(length(min = 1, max = 1024), regex(pattern = r"^[!-~]+$"))]
    change_key: Option<String>,
    /// Where the item's bytes are.
    blob: WireBlob,
    /// In place of the worker's configured version; archive mailboxes need `beta`.
    graph_version: Option<WireGraphVersion>,
    /// Later than this the job fails with `job_expired`. RFC 3339.
    #[schemars(extend("format" = "date-time"), regex(pattern = MOMENT))]
    not_after: Option<String>,
    /// Anything, at most 16 KiB of JSON text; echoed.
    #[serde(borrow)]
    #[schemars(with = "Option<serde_json::Map<String, serde_json::Value>>")]
    metadata: Option<&'a RawValue>,
}

/// No control characters.
const NO_CONTROLS: &str = r"^[^\u0000-\u001f\u007f-\u009f]*$";
/// A GUID, or a domain name of at least two labels.
const TENANT: &str = r"^([0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{12}|[0-9A-Za-z]([0-9A-Za-z-]{0,61}[0-9A-Za-z])?(\.[0-9A-Za-z]([0-9A-Za-z-]{0,61}[0-9A-Za-z])?)+)$";
/// Neither `.` nor `..`, no `/ \ ? # %`, no control characters.
const SEGMENT: &str = r"^(?!\.{1,2}$)[^/\\?#%\u0000-\u001f\u007f-\u009f]+$";
/// RFC 3339.
const MOMENT: &str =
    r"^[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?([Zz]|[+-][0-9]{2}:[0-9]{2})$";

/// What [`mode`] checks: `update` requires both keys, `create` refuses them.
fn keys_by_mode(schema: &mut Schema) {
    schema.insert("if".into(), json!({"properties": {"mode": {"const": "update"}}, "required": ["mode"]}));
    schema.insert(
        "then".into(),
        json!({"required": ["itemId", "changeKey"], "properties": {"itemId": {"type": "string"}, "changeKey": {"type": "string"}}}),
    );
    schema.insert(
        "else".into(),
        json!({"properties": {"itemId": {"type": "null"}, "changeKey": {"type": "null"}}}),
    );
}

#[derive(Deserialize, Clone, Copy, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum WireMode {
    Create,
    Update,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct WireBlob {
    /// The bucket; at most 255 bytes.
    #[schemars(length(min = 1, max = 255), regex(pattern = NO_CONTROLS))]
    bucket: String,
    /// The key; at most 1024 bytes.
    #[schemars(length(min = 1, max = 1024), regex(pattern = NO_CONTROLS))]
    key: String,
    /// A version of the object.
    #[schemars(length(min = 1, max = 1024), regex(pattern = NO_CONTROLS))]
    version_id: Option<String>,
    /// An item inside a packed object.
    range: Option<WireRange>,
    /// The stored form of the FTS bytes, below compression.
    #[serde(default)]
    encoding: WireEncoding,
    /// How the stored form is compressed.
    #[serde(default)]
    compression: WireCompression,
    /// FTS bytes after decoding; checked.
    size: Option<u64>,
    /// Of the FTS bytes after decoding; checked before the item can exist.
    #[schemars(regex(pattern = r"^[0-9A-Fa-f]{64}$"))]
    sha256: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct WireRange {
    /// First byte.
    offset: u64,
    /// Number of bytes.
    #[schemars(range(min = 1))]
    length: u64,
}

#[derive(Deserialize, Default, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum WireEncoding {
    #[default]
    Raw,
    Base64,
}

impl From<WireEncoding> for Encoding {
    fn from(wire: WireEncoding) -> Self {
        match wire {
            WireEncoding::Raw => Self::Raw,
            WireEncoding::Base64 => Self::Base64,
        }
    }
}

#[derive(Deserialize, Default, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum WireCompression {
    #[default]
    None,
    Gzip,
    Zstd,
}

impl From<WireCompression> for Compression {
    fn from(wire: WireCompression) -> Self {
        match wire {
            WireCompression::None => Self::None,
            WireCompression::Gzip => Self::Gzip,
            WireCompression::Zstd => Self::Zstd,
        }
    }
}

#[derive(Deserialize, JsonSchema)]
enum WireGraphVersion {
    #[serde(rename = "v1.0")]
    V1,
    #[serde(rename = "beta")]
    Beta,
}

impl From<WireGraphVersion> for GraphVersion {
    fn from(wire: WireGraphVersion) -> Self {
        match wire {
            WireGraphVersion::V1 => Self::V1,
            WireGraphVersion::Beta => Self::Beta,
        }
    }
}

#[derive(Deserialize)]
struct WireCloudEvent<'a> {
    specversion: String,
    #[serde(rename = "type")]
    kind: String,
    #[serde(rename = "id")]
    _id: String,
    #[serde(rename = "source")]
    _source: String,
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
    #[expect(clippy::zero_sized_map_values, reason = "serde cannot flatten into a set")]
    #[serde(flatten)]
    extensions: BTreeMap<String, IgnoredAny>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;

    const TENANT: &str = "a7809c93-0000-4000-8000-000000000001";

    fn valid() -> Value {
        json!({"jobId": "j-1", "tenantId": TENANT, "mailboxId": "MBX:e0643f21@a7809c93", "folderId": "Rm9sZGVy",
               "mode": "create", "blob": {"bucket": "backups", "key": "a/b.fts"}})
    }

    fn with(path: &str, value: Value) -> Value {
        let mut job = valid();
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        let parent = if parent.is_empty() {
            &mut job
        } else {
            job.pointer_mut(&format!("/{parent}")).expect("parent")
        };
        parent[name] = value;
        job
    }

    fn parse(job: &Value) -> Result<RestoreJob, Malformed> {
        Parser::default().parse(job.to_string().as_bytes(), Wrapping::default())
    }

    #[test]
    fn every_field_of_the_contract_is_read() {
        let job = json!({
            "jobId": "j-1", "restoreId": "r-1", "requestedBy": "ticket 4711", "tenantId": TENANT,
            "mailboxId": "MBX:e0643f21@a7809c93", "folderId": "Rm9sZGVy", "mode": "update", "itemId": "SXRlbQ==", "changeKey": "Q0s=",
            "blob": {"bucket": "backups", "key": "a/b.fts", "versionId": "v", "range": {"offset": 5, "length": 7}, "encoding": "base64",
                     "compression": "zstd", "size": 31744, "sha256": "ab".repeat(32)},
            "graphVersion": "beta", "notAfter": "2026-12-01T00:00:00Z", "metadata": {"any": ["JSON", 1.50]}});
        let job = parse(&job).expect("a job");
        assert_eq!(job.mode.as_str(), "update");
        assert_eq!(job.blob.range, Some(ByteRange { offset: 5, length: 7 }));
        assert_eq!((job.blob.encoding, job.blob.compression), (Encoding::Base64, Compression::Zstd));
        assert_eq!(job.blob.sha256, Some([0xab; 32]));
        assert_eq!(job.not_after, Some(UnixMillis(1_796_083_200_000)));
        assert_eq!(job.graph_version, Some(GraphVersion::Beta));
        assert_eq!(job.metadata.expect("metadata").as_json_text(), r#"{"any":["JSON",1.5]}"#);
    }

    #[test]
    fn what_is_no_job_is_refused_with_its_reason() {
        for (name, job, says) in [
            ("unknown field", with("folderid", json!("x")), "folderid"),
            ("unknown field in the blob", with("blob/sha265", json!("x")), "blob"),
            (
                "unknown field in the range",
                with("blob/range", json!({"offset": 0, "length": 1, "end": 1})),
                "end",
            ),
            ("wrong type", with("blob/size", json!("12")), "blob.size"),
            ("negative size", with("blob/size", json!(-1)), "blob.size"),
            ("create with keys", with("itemId", json!("x")), "create refuses"),
            ("update without keys", with("mode", json!("update")), "update requires"),
            ("unknown mode", with("mode", json!("upsert")), "mode"),
            ("an id of 10,000 characters", with("jobId", json!("x".repeat(10_000))), "jobId"),
            ("a mailbox that is a path", with("mailboxId", json!("../../users/x?")), "mailboxId"),
            ("a tenant that is none", with("tenantId", json!("nobody")), "tenantId"),
            ("an empty range", with("blob/range", json!({"offset": 0, "length": 0})), "range"),
            ("a digest that is none", with("blob/sha256", json!("zz")), "sha256"),
            ("a time that is none", with("notAfter", json!("tomorrow")), "notAfter"),
            ("metadata that is no object", with("metadata", json!([1])), "metadata"),
            ("metadata of 20 KiB", with("metadata", json!({"x": "y".repeat(20_000)})), "metadata"),
            ("requestedBy of 201 characters", with("requestedBy", json!("y".repeat(201))), "requestedBy"),
            ("no object", json!([]), "expected"),
        ] {
            let refusal = parse(&job).expect_err(name);
            assert_eq!(refusal.reason, Reason::JobMalformed, "{name}: {refusal:?}");
            assert!(refusal.why.contains(says), "{name}: {refusal:?}");
        }
    }

    #[test]
    fn a_refusal_keeps_the_job_id_where_it_can_be_read() {
        let id =
            |body: &[u8]| Parser::default().parse(body, Wrapping::default()).expect_err("refused").job_id;
        assert_eq!(id(br#"{"jobId":"j-7","nonsense":true}"#).expect("id").as_str(), "j-7");
        assert_eq!(id(br#"{"jobId":7}"#), None);
        assert_eq!(id(b"not json"), None);
        assert_eq!(
            id(format!(r#"{{"jobId":"j-8","x":"{}"}}"#, "y".repeat(1_000_000)).as_bytes())
                .expect("id")
                .as_str(),
            "j-8"
        );
    }

    #[test]
    fn a_job_without_a_tenant_is_the_configured_ones() {
        let tenant = TenantId::parse("contoso.com").expect("tenant");
        let mut job = valid();
        job.as_object_mut().expect("object").remove("tenantId");
        assert!(parse(&job).expect_err("no default").why.contains("tenantId"));
        let parser = Parser { default_tenant: Some(tenant.clone()) };
        assert_eq!(
            parser.parse(job.to_string().as_bytes(), Wrapping::default()).expect("default").tenant,
            tenant
        );
    }

    #[test]
    fn cloud_events_in_both_forms() {
        let event = json!({"specversion": "1.0", "type": JOB_TYPE, "id": "1", "source": "/backup", "traceparent": "00-…", "data": valid()});
        let parse = |event: &Value, content_type, kind| {
            let wrapping = Wrapping { content_type: Some(content_type), kind: None, cloud_event_type: kind };
            Parser::default().parse(event.to_string().as_bytes(), wrapping)
        };
        let structured = "application/cloudevents+json; charset=utf-8";
        assert_eq!(parse(&event, structured, None).expect("job").id.as_str(), "j-1");
        assert_eq!(parse(&valid(), "application/json", Some(JOB_TYPE)).expect("job").id.as_str(), "j-1");
        let other = parse(&valid(), "application/json", Some("restore.job.v2")).expect_err("version");
        assert_eq!(
            (other.reason, other.job_id.expect("id").as_str()),
            (Reason::JobVersionUnsupported, "j-1")
        );
        let mut typo = event.clone();
        typo["Data"] = json!(1);
        assert_eq!(parse(&typo, structured, None).expect_err("typo").reason, Reason::JobMalformed);
        let mut bad = event;
        bad["data"]["nonsense"] = json!(1);
        let refused = parse(&bad, structured, None).expect_err("data");
        assert!(refused.why.starts_with("data: ") && refused.job_id.is_some(), "{refused:?}");
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_job_or_a_refusal(body in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _job = Parser::default().parse(&body, Wrapping::default());
        }
    }
}
