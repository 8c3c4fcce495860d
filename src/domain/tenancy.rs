//! Which tenants' jobs this worker does.

use super::{
    fault::RestoreError,
    job::{RestoreJob, TenantId, is_guid},
    reason::Reason,
};

/// Whose jobs are done; empty: anybody's.
#[derive(Clone, Debug, Default)]
pub struct Tenants(Vec<TenantId>);

impl Tenants {
    /// `identity.allowed_tenants`, and `identity.tenant_id`: whoever lists other tenants does not mean to shut out its own.
    #[must_use]
    pub fn new(mut allowed: Vec<TenantId>, home: Option<TenantId>) -> Self {
        if !allowed.is_empty() {
            allowed.extend(home);
        }
        Self(allowed)
    }

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
    use crate::domain::{BlobRef, FolderId, ImportMode, JobId, MailboxId};

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
            blob: BlobRef::plain("b", "k"),
            graph_version: None,
            not_after: None,
            metadata: None,
        }
    }

    #[test]
    fn a_job_of_a_foreign_tenant_is_refused() {
        let parse = |tenant: &&str| TenantId::parse(tenant).expect("tenant");
        for (allowed, home, tenant, mailbox, accepted) in [
            (&[][..], None, ONE, "MBX:x@y", true),
            (&[], None, ONE, &*format!("MBX:x@{ONE}"), true),
            (&[], None, ONE, &format!("MBX:x@{OTHER}"), false),
            (&[], None, "contoso.com", &format!("MBX:x@{OTHER}"), true),
            (&[], Some(ONE), OTHER, "anna@contoso.com", true),
            (&[ONE], None, ONE, "anna@contoso.com", true),
            (&[ONE], None, OTHER, "anna@contoso.com", false),
            (&[ONE], Some(OTHER), OTHER, "anna@contoso.com", true),
            (&[ONE], Some(OTHER), "contoso.com", "anna@contoso.com", false),
            (&["Contoso.com"], None, "contoso.com", "anna@contoso.com", true),
        ] {
            let tenants = Tenants::new(allowed.iter().map(parse).collect(), home.as_ref().map(parse));
            assert_eq!(
                tenants.check(&job(tenant, mailbox)).is_ok(),
                accepted,
                "{allowed:?} {home:?} {tenant} {mailbox}"
            );
        }
    }
}
