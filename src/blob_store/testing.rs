//! Settings and jobs for the tests beside the code.

use std::time::Duration;

use crate::{
    domain::{BlobRef, FolderId, ImportMode, JobId, MailboxId, RestoreJob, TenantId},
    fts::PreflightMode,
    s3_client,
};

use super::Settings;

pub(super) fn settings(endpoint: &str) -> Settings {
    Settings {
        client: s3_client::Settings {
            endpoint: Some(endpoint.into()),
            region: Some("us-east-1".into()),
            path_style: true,
            ca_pem: None,
            connect_timeout: Duration::from_secs(2),
            read_timeout: Duration::from_secs(2),
        },
        allowed_buckets: Vec::new(),
        allowed_prefix: None,
        ledger: None,
        max_blob: 200 << 20,
        max_window: 8 << 20,
        min_download_rate: 64 << 10,
        retain: 256 << 10,
        preflight: PreflightMode::Framing,
    }
}

pub(super) fn blob(bucket: &str, key: &str) -> BlobRef {
    BlobRef::plain(bucket, key)
}

pub(super) fn job(bucket: &str, key: &str) -> RestoreJob {
    RestoreJob {
        id: JobId::parse("job-1").expect("an id"),
        restore_id: None,
        requested_by: None,
        tenant: TenantId::parse("contoso.com").expect("a tenant"),
        mailbox: MailboxId::parse("anna").expect("a mailbox"),
        folder: FolderId::parse("folder").expect("a folder"),
        mode: ImportMode::Create,
        blob: blob(bucket, key),
        graph_version: None,
        not_after: None,
        metadata: None,
    }
}
