//! Where a token comes from, by kind. A credential is made anew for each token: the SDK's own cache would hand out the
//! old one, and each secret's file is read again this way.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use azure_core::{
    Error,
    credentials::{AccessToken, TokenCredential},
    http::ClientMethodOptions,
};
use azure_identity::{
    ClientAssertion, ClientAssertionCredential, ClientAssertionCredentialOptions, ClientSecretCredential,
    ClientSecretCredentialOptions, ManagedIdentityCredential, ManagedIdentityCredentialOptions,
    UserAssignedId,
};
use reqwest::Client;
use secrecy::{ExposeSecret, SecretString};
use tokio::time::{Instant, timeout};

use super::{
    Kind, Settings,
    certificate::{Assertion, Certificate},
    claims,
    refusal::Refusal,
    transport::{Http, MetadataHost},
};
use crate::{
    domain::{OursScope, Reason, RestoreError, TenantId, UnixMillis},
    exchange::{clock::own_clock, counted::count},
    metrics::Metrics,
    secret::Secret,
};

/// Where to sign in, if nothing else is said.
const AUTHORITY: &str = "https://login.microsoftonline.com";
/// How often a token's file is read again.
const READ_AGAIN: Duration = Duration::from_secs(30);
/// How long a token is believed in that does not tell its end.
const OPAQUE_LIFE: Duration = Duration::from_mins(5);
/// Longest wait for a token, whatever the SDK does.
const TIMEOUT: Duration = Duration::from_mins(1);

/// A token as it came.
pub(super) struct Issued {
    pub(super) text: SecretString,
    pub(super) expires: UnixMillis,
    /// It came from a file, which is read again after this time.
    pub(super) read_again: Option<Duration>,
}

/// Where tokens come from.
pub(super) struct Source {
    kind: Kind,
    what: What,
    scope: String,
    authority: String,
    http: Http,
}

enum What {
    Secret { client_id: String, secret: Secret },
    Certificate { client_id: String, file: PathBuf, password: Option<Secret> },
    Workload { client_id: String, file: PathBuf },
    Managed { client_id: Option<String> },
    File(PathBuf),
}

impl Source {
    /// Checks that what the kind needs is there.
    pub(super) fn new(
        settings: Settings,
        scope: String,
        remote: Client,
        local: Client,
    ) -> Result<Self, String> {
        let kind = choose(&settings);
        let authority = settings.authority.clone().unwrap_or_else(|| AUTHORITY.to_owned());
        let metadata = settings.metadata_host.as_deref().map(MetadataHost::parse).transpose()?;
        let what = what(kind, settings)?;
        Ok(Self { kind, what, scope, authority, http: Http::new(remote, local, metadata) })
    }

    /// The kind, chosen.
    pub(super) const fn kind(&self) -> Kind {
        self.kind
    }

    /// Whether the token is one tenant's, whatever a job says.
    pub(super) const fn serves_one_tenant(&self) -> bool {
        matches!(self.what, What::Managed { .. } | What::File(_))
    }

    /// Whether tokens come from a file.
    pub(super) const fn is_file(&self) -> bool {
        matches!(self.what, What::File(_))
    }

    /// Graph refused the token and no other is to be had.
    pub(super) fn refused_again(&self) -> RestoreError {
        let message = match &self.what {
            What::File(path) => {
                format!("graph refused the token of {}, which holds no other yet", path.display())
            }
            What::Secret { .. } | What::Certificate { .. } | What::Workload { .. } | What::Managed { .. } => {
                "graph refused our token, and the sign-in host issued the same again".to_owned()
            }
        };
        ours(message)
    }

    /// Asks for a token.
    pub(super) async fn issue(
        &self,
        tenant: &TenantId,
        home: bool,
        metrics: &Metrics,
    ) -> Result<Issued, RestoreError> {
        if let What::File(path) = &self.what {
            return from_file(path, metrics).await;
        }
        let credential = self.credential(tenant, metrics).await?;
        let started = Instant::now();
        let scopes = [self.scope.as_str()];
        let asked = timeout(TIMEOUT, credential.get_token(&scopes, None)).await;
        let outcome = asked.unwrap_or_else(|_| {
            Err(Error::with_message(
                azure_core::error::ErrorKind::Io,
                "the sign-in host did not answer in time",
            ))
        });
        let outcome = outcome.map_err(|error| Refusal::read(&error));
        let status = match &outcome {
            Ok(_) => "200".to_owned(),
            Err(refusal) => refusal.status.map_or_else(|| "error".to_owned(), |status| status.to_string()),
        };
        count(metrics, "token", &status, started.elapsed());
        outcome.map(|token| issued(&token)).map_err(|refusal| refusal.judge(home))
    }

    async fn credential(
        &self,
        tenant: &TenantId,
        metrics: &Metrics,
    ) -> Result<Arc<dyn TokenCredential>, RestoreError> {
        let options = self.http.options(Some(&self.authority));
        let tenant = tenant.as_str();
        let made: azure_core::Result<Arc<dyn TokenCredential>> = match &self.what {
            What::Secret { client_id, secret } => {
                let secret =
                    secret.read().await.map_err(|why| ours(format!("identity.client_secret: {why}")))?;
                let secret = secret.expose_secret().to_owned().into();
                let options = ClientSecretCredentialOptions { client_options: options };
                ClientSecretCredential::new(tenant, client_id.clone(), secret, Some(options))
                    .map(|made| made as _)
            }
            What::Certificate { client_id, file, password } => {
                let certificate = Certificate::load(file, password.as_ref()).await;
                let certificate =
                    certificate.map_err(|why| ours(format!("identity.certificate_file: {why}")))?;
                metrics
                    .credential_expiry
                    .with_label_values(&["certificate"])
                    .set(seconds(certificate.ends()));
                certificate.check(own_clock()).map_err(ours)?;
                let audience = format!("{}/{tenant}/oauth2/v2.0/token", self.authority.trim_end_matches('/'));
                let assertion = Assertion::new(certificate, client_id.clone(), audience);
                let options = ClientAssertionCredentialOptions { client_options: options };
                ClientAssertionCredential::new(tenant.to_owned(), client_id.clone(), assertion, Some(options))
                    .map(|made| made as _)
            }
            What::Workload { client_id, file } => {
                // Not the SDK's own: it sends white space at the file's end, too, and reads while others wait.
                let token = Secret::File(file.clone()).read().await;
                let token = token.map_err(|why| ours(format!("the federated token: {why}")))?;
                let options = ClientAssertionCredentialOptions { client_options: options };
                let assertion = Federated(token);
                ClientAssertionCredential::new(tenant.to_owned(), client_id.clone(), assertion, Some(options))
                    .map(|made| made as _)
            }
            What::Managed { client_id } => {
                let options = ManagedIdentityCredentialOptions {
                    user_assigned_id: client_id.clone().map(UserAssignedId::ClientId),
                    client_options: self.http.options(None),
                };
                ManagedIdentityCredential::new(Some(options)).map(|made| made as _)
            }
            What::File(_) => {
                return Err(RestoreError::job(Reason::Internal, "a token file needs no credential"));
            }
        };
        made.map_err(|error| ours(format!("no token can be asked for: {}", Refusal::read(&error).text)))
    }
}

/// What another issuer says of us.
#[derive(Debug)]
struct Federated(SecretString);

#[async_trait]
impl ClientAssertion for Federated {
    async fn secret(&self, _: Option<ClientMethodOptions<'_>>) -> azure_core::Result<String> {
        Ok(self.0.expose_secret().to_owned())
    }
}

fn choose(settings: &Settings) -> Kind {
    match settings.kind {
        Kind::Auto if settings.token_file.is_some() => Kind::TokenFile,
        Kind::Auto if settings.client_secret.is_some() => Kind::ClientSecret,
        Kind::Auto if settings.certificate_file.is_some() => Kind::Certificate,
        Kind::Auto if settings.federated_token_file.is_some() => Kind::WorkloadIdentity,
        Kind::Auto => Kind::ManagedIdentity,
        Kind::ClientSecret
        | Kind::Certificate
        | Kind::WorkloadIdentity
        | Kind::ManagedIdentity
        | Kind::TokenFile => settings.kind,
    }
}

fn what(kind: Kind, settings: Settings) -> Result<What, String> {
    let missing =
        |key: &str| format!("identity.{key}: missing, and identity.kind {} needs it", kind.as_str());
    let client_id = settings.client_id.filter(|id| !id.is_empty());
    let client = || client_id.clone().ok_or_else(|| missing("client_id"));
    Ok(match kind {
        Kind::ClientSecret => What::Secret {
            client_id: client()?,
            secret: settings.client_secret.ok_or_else(|| missing("client_secret"))?,
        },
        Kind::Certificate => What::Certificate {
            client_id: client()?,
            file: settings.certificate_file.ok_or_else(|| missing("certificate_file"))?,
            password: settings.certificate_password,
        },
        Kind::WorkloadIdentity => What::Workload {
            client_id: client()?,
            file: settings.federated_token_file.ok_or_else(|| missing("federated_token_file"))?,
        },
        Kind::TokenFile => What::File(settings.token_file.ok_or_else(|| missing("token_file"))?),
        Kind::ManagedIdentity | Kind::Auto => What::Managed { client_id },
    })
}

async fn from_file(path: &Path, metrics: &Metrics) -> Result<Issued, RestoreError> {
    let told = |why: String| ours(format!("identity.token_file: {why}"));
    let text = Secret::File(path.to_owned()).read().await.map_err(told)?;
    let text = match text.expose_secret().split_once(char::is_whitespace) {
        Some((word, token)) if word.eq_ignore_ascii_case("bearer") => SecretString::from(token.trim()),
        _ => text,
    };
    if !text.expose_secret().bytes().all(|b| b.is_ascii_graphic()) {
        return Err(told(format!("{} does not hold a token alone", path.display())));
    }
    let now = own_clock();
    let expires = claims::end(text.expose_secret()).unwrap_or_else(|| now.plus(OPAQUE_LIFE));
    metrics.credential_expiry.with_label_values(&["token_file"]).set(seconds(expires));
    if expires <= now {
        return Err(told(format!("the token of {} has ended", path.display())));
    }
    Ok(Issued { text, expires, read_again: Some(READ_AGAIN) })
}

fn issued(token: &AccessToken) -> Issued {
    let expires = i64::try_from(token.expires_on.unix_timestamp_nanos() / 1_000_000).unwrap_or(i64::MAX);
    Issued {
        text: SecretString::from(token.token.secret().to_owned()),
        expires: UnixMillis(expires),
        read_again: None,
    }
}

#[expect(clippy::cast_precision_loss, reason = "seconds since 1970 are far below 2^52")]
fn seconds(moment: UnixMillis) -> f64 {
    (moment.0 / 1_000) as f64
}

fn ours(message: impl Into<String>) -> RestoreError {
    RestoreError::ours(OursScope::Everything, Reason::IdentityRejected, message)
}
