//! What a failed GET means for the job. Pure.

use crate::{
    domain::{BlobRef, Dependency, Fault, Reason, RestoreError},
    s3_client::{Failure, Kind},
};

/// Whose trouble a failed GET of `blob` is.
pub(super) fn judge(failure: &Failure, blob: &BlobRef) -> RestoreError {
    if failure.keys_refused() || failure.passes() {
        return failure.unavailable(Dependency::Storage);
    }
    if failure.status == Some(412) {
        return changed();
    }
    let (reason, why) = reason(failure, blob);
    failure.error(Fault::Job, reason, &format!("{why}: {failure}"))
}

fn reason(failure: &Failure, blob: &BlobRef) -> (Reason, &'static str) {
    let code = failure.code.as_deref();
    match (failure.status, code) {
        (_, Some("NoSuchBucket")) => (Reason::BlobForbidden, "no such bucket"),
        (_, Some("InvalidObjectState")) => {
            (Reason::BlobArchived, "the object is archived and has not been restored")
        }
        // 405: a version that is a delete marker.
        (Some(404 | 405), _) | (_, Some("KeyTooLongError")) => (Reason::BlobNotFound, "no such object"),
        (_, Some("InvalidArgument" | "NoSuchVersion")) if blob.version_id.is_some() => {
            (Reason::BlobNotFound, "no such version")
        }
        (Some(416), _) => (Reason::BlobCorrupt, "the object ends before the range begins"),
        (Some(301 | 307 | 308), _) | (_, Some("AuthorizationHeaderMalformed" | "PermanentRedirect")) => {
            (Reason::BlobForbidden, "the bucket is in another region")
        }
        _ if failure.kind == Kind::Unsendable => {
            (Reason::BlobForbidden, "the bucket or key cannot be asked for")
        }
        // Source: Amazon S3 API Reference, "GetObject", section "Permissions".
        (Some(403), _) => (
            Reason::BlobForbidden,
            "the storage refuses the object, or it is missing and the keys lack s3:ListBucket to be told so",
        ),
        _ => (Reason::BlobForbidden, "the storage refuses the object"),
    }
}

/// The object is another than the one read a moment ago.
pub(super) fn changed() -> RestoreError {
    passing("the object changed between two reads")
}

/// Trouble of the storage that may be over at the next try.
pub(super) fn passing(message: impl Into<String>) -> RestoreError {
    RestoreError::passing(Dependency::Storage, Reason::StorageUnavailable, message)
}

pub(super) fn too_large(max: u64) -> RestoreError {
    RestoreError::job(Reason::BlobTooLarge, format!("the blob is larger than storage.max_blob ({max} bytes)"))
}

pub(super) fn size_differs(expected: u64, found: u64) -> RestoreError {
    corrupt(format!("the job says {expected} bytes, the blob has {found}"))
}

pub(super) fn corrupt(message: impl Into<String>) -> RestoreError {
    RestoreError::job(Reason::BlobCorrupt, message)
}
