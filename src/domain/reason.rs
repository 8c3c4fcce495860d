//! The closed list of reason codes: the same word in event, dead letter, metric label, log and runbook.

/// Why a job failed, or why its outcome is unknown. One trouble, one word; a word is never reused.
///
/// Source: the contract's list of reason codes (README, "Reason codes").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// The message is no job: no JSON, an unknown field, a wrong type, a value out of bounds.
    JobMalformed,
    /// The message's `type` names a version that this worker does not know.
    JobVersionUnsupported,
    /// `notAfter` has passed, or the broker dropped the job because of its own expiration.
    JobExpired,
    /// The ledger knows this job id with another payload.
    JobIdReused,
    /// The job's tenant is not in `identity.allowed_tenants`, nor `identity.tenant_id`.
    TenantNotAllowed,
    /// The tenant does not know the application, or has withdrawn its consent.
    TenantNotAuthorized,
    /// The bucket is not in `storage.allowed_buckets`.
    BucketNotAllowed,
    /// The key is outside `storage.allowed_prefix`, or one of the ledger's own.
    BlobNotAllowed,
    /// The storage has no such object.
    BlobNotFound,
    /// The storage refuses this one object or bucket.
    BlobForbidden,
    /// The object is in cold storage and has not been restored.
    BlobArchived,
    /// Size or digest differ, or the stored form does not decode.
    BlobCorrupt,
    /// Preflight: the bytes are no FTS stream.
    BlobNotFts,
    /// Larger than `storage.max_blob`, or than Exchange takes.
    BlobTooLarge,
    /// Exchange does not know the folder.
    FolderNotFound,
    /// Exchange does not know the item to update.
    ItemNotFound,
    /// The item to update has changed since the change key was read.
    ChangeKeyConflict,
    /// Exchange refuses the item.
    ItemRejected,
    /// Exchange does not know the mailbox.
    MailboxNotFound,
    /// The application may not import into this mailbox.
    MailboxForbidden,
    /// The mailbox's quota is used up.
    MailboxFull,
    /// This version of the API refuses archive mailboxes.
    ArchiveUnsupported,
    /// The import session cannot be used: refused when fresh, or its URL cannot be sent unchanged.
    SessionRejected,
    /// The import URL is not https, or its host is not in `exchange.import_hosts`.
    ImportHostNotAllowed,
    /// The import may or may not have happened, and looking did not tell.
    OutcomeUnknown,
    /// Passing trouble did not pass within `retry.attempts`; `error.last` holds the last code.
    AttemptsExhausted,
    /// The job ended its worker `retry.crash_limit` times.
    CrashLoop,
    /// The broker dropped the job (its delivery limit, for instance).
    BrokerGaveUp,
    /// The object storage cannot be reached or answers with an error of its own.
    StorageUnavailable,
    /// Exchange or Graph cannot be reached or answers with an error of its own.
    ExchangeUnavailable,
    /// Exchange names a limit.
    Throttled,
    /// Our own credential is refused.
    IdentityRejected,
    /// Neither the job's reply queue nor the configured one takes the event.
    ReplyUnroutable,
    /// A fault of this program.
    Internal,
}

impl Reason {
    /// Every reason, in the contract's order.
    pub const ALL: [Self; 34] = [
        Self::JobMalformed,
        Self::JobVersionUnsupported,
        Self::JobExpired,
        Self::JobIdReused,
        Self::TenantNotAllowed,
        Self::TenantNotAuthorized,
        Self::BucketNotAllowed,
        Self::BlobNotAllowed,
        Self::BlobNotFound,
        Self::BlobForbidden,
        Self::BlobArchived,
        Self::BlobCorrupt,
        Self::BlobNotFts,
        Self::BlobTooLarge,
        Self::FolderNotFound,
        Self::ItemNotFound,
        Self::ChangeKeyConflict,
        Self::ItemRejected,
        Self::MailboxNotFound,
        Self::MailboxForbidden,
        Self::MailboxFull,
        Self::ArchiveUnsupported,
        Self::SessionRejected,
        Self::ImportHostNotAllowed,
        Self::OutcomeUnknown,
        Self::AttemptsExhausted,
        Self::CrashLoop,
        Self::BrokerGaveUp,
        Self::StorageUnavailable,
        Self::ExchangeUnavailable,
        Self::Throttled,
        Self::IdentityRejected,
        Self::ReplyUnroutable,
        Self::Internal,
    ];

    /// The word of the contract.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::JobMalformed => "job_malformed",
            Self::JobVersionUnsupported => "job_version_unsupported",
            Self::JobExpired => "job_expired",
            Self::JobIdReused => "job_id_reused",
            Self::TenantNotAllowed => "tenant_not_allowed",
            Self::TenantNotAuthorized => "tenant_not_authorized",
            Self::BucketNotAllowed => "bucket_not_allowed",
            Self::BlobNotAllowed => "blob_not_allowed",
            Self::BlobNotFound => "blob_not_found",
            Self::BlobForbidden => "blob_forbidden",
            Self::BlobArchived => "blob_archived",
            Self::BlobCorrupt => "blob_corrupt",
            Self::BlobNotFts => "blob_not_fts",
            Self::BlobTooLarge => "blob_too_large",
            Self::FolderNotFound => "folder_not_found",
            Self::ItemNotFound => "item_not_found",
            Self::ChangeKeyConflict => "change_key_conflict",
            Self::ItemRejected => "item_rejected",
            Self::MailboxNotFound => "mailbox_not_found",
            Self::MailboxForbidden => "mailbox_forbidden",
            Self::MailboxFull => "mailbox_full",
            Self::ArchiveUnsupported => "archive_unsupported",
            Self::SessionRejected => "session_rejected",
            Self::ImportHostNotAllowed => "import_host_not_allowed",
            Self::OutcomeUnknown => "outcome_unknown",
            Self::AttemptsExhausted => "attempts_exhausted",
            Self::CrashLoop => "crash_loop",
            Self::BrokerGaveUp => "broker_gave_up",
            Self::StorageUnavailable => "storage_unavailable",
            Self::ExchangeUnavailable => "exchange_unavailable",
            Self::Throttled => "throttled",
            Self::IdentityRejected => "identity_rejected",
            Self::ReplyUnroutable => "reply_unroutable",
            Self::Internal => "internal",
        }
    }

    /// The reason with this word, if there is one (a ledger record or dead letter of a later version may hold another).
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == word)
    }

    /// Whether the reason ends a *message* rather than a job: it neither obeys nor writes a ledger record, and its
    /// event's message id ends in the digest of the message's body.
    #[must_use]
    pub const fn ends_message(self) -> bool {
        matches!(self, Self::JobMalformed | Self::JobVersionUnsupported | Self::JobIdReused)
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::Reason;

    #[test]
    fn every_word_is_its_own_and_leads_back() {
        for reason in Reason::ALL {
            assert_eq!(Reason::parse(reason.as_str()), Some(reason));
        }
        assert_eq!(Reason::parse("no_such_reason"), None);
    }
}
