//! Who we are: bearer tokens for Graph, one per tenant, renewed early and once for many waiters.
//!
//! The SDK's credentials renew late and let each waiter ask again, so a credential is made anew for each token (which
//! also reads every secret's file anew), and this room keeps the tokens.

use std::{fmt, path::PathBuf, sync::Arc};

use moka::future::Cache;
use reqwest::Client;

use crate::{
    domain::{Reason, RestoreError, TenantId},
    metrics::Metrics,
    secret::Secret,
};

mod certificate;
mod claims;
mod refusal;
mod source;
mod tokens;
mod transport;

pub use claims::TokenFacts;
use source::Source;
pub(super) use tokens::Token;
use tokens::{Renewal, Slot};

/// Tenants whose tokens are kept; the one used longest ago goes first.
const TENANTS: u64 = 1_000;

/// How to sign in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// By what is present: token file, client secret, certificate, federated token file, else managed identity.
    #[default]
    Auto,
    /// A client secret.
    ClientSecret,
    /// A certificate (PEM with key, or PKCS#12).
    Certificate,
    /// A federated token file (Kubernetes).
    WorkloadIdentity,
    /// The identity of the machine.
    ManagedIdentity,
    /// A bearer token that another program keeps fresh in a file.
    TokenFile,
}

impl Kind {
    /// The word of configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::ClientSecret => "client_secret",
            Self::Certificate => "certificate",
            Self::WorkloadIdentity => "workload_identity",
            Self::ManagedIdentity => "managed_identity",
            Self::TokenFile => "token_file",
        }
    }
}

/// What configuration says of identity (the `AZURE_*` variables included).
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// How to sign in.
    pub kind: Kind,
    /// The application; for a managed identity that of the user-assigned one.
    pub client_id: Option<String>,
    /// Its secret.
    pub client_secret: Option<Secret>,
    /// PEM (certificate and key) or PKCS#12.
    pub certificate_file: Option<PathBuf>,
    /// Password of the PKCS#12 file.
    pub certificate_password: Option<Secret>,
    /// A file that holds a bearer token.
    pub token_file: Option<PathBuf>,
    /// The sign-in host, like `https://login.microsoftonline.com` (the default).
    pub authority: Option<String>,
    /// The tenant of jobs that name none.
    pub tenant: Option<TenantId>,
    /// Tenants that jobs may name, beside [`Self::tenant`]; empty: any.
    pub allowed_tenants: Vec<TenantId>,
    /// A file that holds a federated token.
    pub federated_token_file: Option<PathBuf>,
    /// Where a machine's metadata service is asked in place of its fixed address, like `http://127.0.0.1:2579`
    /// (`AZURE_POD_IDENTITY_AUTHORITY_HOST`).
    pub metadata_host: Option<String>,
}

/// Tokens by tenant.
pub(super) struct Identity {
    source: Source,
    tenant: Option<TenantId>,
    allowed: Vec<TenantId>,
    slots: Cache<TenantId, Arc<Slot>>,
    metrics: Arc<Metrics>,
}

impl Identity {
    /// Checks the settings; asks nobody.
    pub(super) fn new(
        settings: Settings,
        scope: String,
        remote: Client,
        local: Client,
        metrics: Arc<Metrics>,
    ) -> Result<Self, String> {
        if let Some(authority) = &settings.authority {
            check_authority(authority)?;
        }
        let (tenant, allowed) = (settings.tenant.clone(), settings.allowed_tenants.clone());
        let source = Source::new(settings, scope, remote, local)?;
        tracing::info!(kind = source.kind().as_str(), "identity chosen");
        let slots = Cache::builder().max_capacity(TENANTS).time_to_idle(tokens::IDLE).build();
        Ok(Self { source, tenant, allowed, slots, metrics })
    }

    /// The tenant of jobs that name none.
    pub(super) fn default_tenant(&self) -> Option<&TenantId> {
        self.tenant.as_ref()
    }

    /// A token that is good for a while.
    pub(super) async fn token(&self, tenant: &TenantId) -> Result<Token, RestoreError> {
        self.check(tenant)?;
        self.slot(tenant).await.get(&self.renewal(tenant), None).await
    }

    /// Another token than `refused`: Graph would not have it.
    pub(super) async fn fresh(&self, tenant: &TenantId, refused: &Token) -> Result<Token, RestoreError> {
        self.slot(tenant).await.get(&self.renewal(tenant), Some(refused)).await
    }

    /// Asks the login, whatever token is held.
    pub(super) async fn ask(&self, tenant: &TenantId) -> Result<(), RestoreError> {
        self.check(tenant)?;
        self.slot(tenant).await.ask(&self.renewal(tenant)).await
    }

    /// Renews, for ever, what is past half of its life.
    pub(super) async fn keep_fresh(&self) {
        loop {
            tokio::time::sleep(tokens::ROUND).await;
            self.renew_due().await;
        }
    }

    /// Renews once what is past half of its life.
    pub(super) async fn renew_due(&self) {
        let slots: Vec<_> = self.slots.iter().collect();
        for (tenant, slot) in slots {
            slot.renew_if_due(&self.renewal(&tenant)).await;
        }
    }

    async fn slot(&self, tenant: &TenantId) -> Arc<Slot> {
        self.slots.get_with_by_ref(tenant, async { Arc::default() }).await
    }

    fn renewal<'a>(&'a self, tenant: &'a TenantId) -> Renewal<'a> {
        Renewal { source: &self.source, tenant, home: self.is_home(tenant), metrics: &self.metrics }
    }

    fn is_home(&self, tenant: &TenantId) -> bool {
        self.tenant.as_ref().is_none_or(|home| same(home, tenant))
    }

    fn check(&self, tenant: &TenantId) -> Result<(), RestoreError> {
        let refused = |why: &str| Err(RestoreError::job(Reason::TenantNotAllowed, why));
        if self.tenant.as_ref().is_some_and(|home| same(home, tenant)) {
            return Ok(());
        }
        if !self.allowed.is_empty() && !self.allowed.iter().any(|allowed| same(allowed, tenant)) {
            return refused("the job's tenant is not in identity.allowed_tenants");
        }
        if self.tenant.is_some() && self.source.serves_one_tenant() {
            return refused("this kind of identity serves identity.tenant_id only");
        }
        Ok(())
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("kind", &self.source.kind()).finish_non_exhaustive()
    }
}

fn same(one: &TenantId, other: &TenantId) -> bool {
    one.as_str().eq_ignore_ascii_case(other.as_str())
}

fn check_authority(authority: &str) -> Result<(), String> {
    match reqwest::Url::parse(authority) {
        Ok(url) if url.scheme() == "https" && url.path() == "/" && url.query().is_none() => Ok(()),
        Ok(_) => Err("identity.authority: must be an https URL of a host alone".into()),
        Err(error) => Err(format!("identity.authority: {error}")),
    }
}
