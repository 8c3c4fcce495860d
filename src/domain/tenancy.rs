//! Which tenants' jobs this worker does.

use super::{
    fault::RestoreError,
    job::{RestoreJob, TenantId, is_guid},
    reason::Reason,
};

/// `identity.allowed_tenants`; empty: any.
#[derive(Clone, Debug, Default)]
pub struct Tenants(pub Vec<TenantId>);

impl Tenants {
    /// Checks the job's tenant against the list, and against the tenant that its mailbox id names where both are GUIDs.
    ///
    /// # Errors
    /// `tenant_not_allowed`, the job's own trouble.
    pub fn check(&self, job: &RestoreJob) -> Result<(), RestoreError> {
        let refuse = |why: &str| Err(RestoreError::job(Reason::TenantNotAllowed, why));
        let same = |other: &str| other.eq_ignore_ascii_case(job.tenant.as_str());
        let both_guids = |part: &&str| is_guid(part) && is_guid(job.tenant.as_str());
        if job.mailbox.tenant_part().filter(both_guids).is_some_and(|part| !same(part)) {
            return refuse("the mailbox id names another tenant than the job");
        }
        if !self.0.is_empty() && !self.0.iter().any(|allowed| same(allowed.as_str())) {
            return refuse("the job's tenant is not in identity.allowed_tenants");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{BlobRef, Compression, Encoding, FolderId, ImportMode, JobId, MailboxId};

    const ONE: &str = "a7809c93-0000-4000-8000-000000000001";
    const OTHER: &str = "a7809c93-0000-4000-8000-000000000002";

    fn job(tenant: &str, mailbox: &str) -> RestoreJob {
        RestoreJob {
            id: JobId::parse("j").expect("id"),
            restore_id: None,
            requested_by: None,
            tenant: TenantId::parse(tenant).expect("tenant"),
            mailbox: MailboxId::parse(mailbox).expect("mailbox"),
            folder: FolderId::parse("f").expect("folder"),
            mode: ImportMode::Create,
            blob: BlobRef {
                bucket: "b".into(),
                key: "k".into(),
                version_id: None,
                range: None,
                encoding: Encoding::Raw,
                compression: Compression::None,
                size: None,
                sha256: None,
            },
            graph_version: None,
            not_after: None,
            metadata: None,
        }
    }

    #[test]
    fn a_job_of_a_foreign_tenant_is_refused() {
        let list =
            |tenants: &[&str]| Tenants(tenants.iter().map(|t| TenantId::parse(t).expect("tenant")).collect());
        for (allowed, tenant, mailbox, accepted) in [
            (&[][..], ONE, "MBX:x@y", true),
            (&[], ONE, &*format!("MBX:x@{ONE}"), true),
            (&[], ONE, &format!("MBX:x@{OTHER}"), false),
            (&[], "contoso.com", &format!("MBX:x@{OTHER}"), true),
            (&[ONE], ONE, "anna@contoso.com", true),
            (&[ONE], OTHER, "anna@contoso.com", false),
            (&["Contoso.com"], "contoso.com", "anna@contoso.com", true),
        ] {
            assert_eq!(
                list(allowed).check(&job(tenant, mailbox)).is_ok(),
                accepted,
                "{allowed:?} {tenant} {mailbox}"
            );
        }
    }
}
