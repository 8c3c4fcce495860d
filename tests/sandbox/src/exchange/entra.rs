//! Entra's token endpoint and the managed identity endpoints.
//!
//! Error shapes and AADSTS codes as Entra writes them; the codes are told apart by the worker (design 4).

use serde_json::{Value, json};

use super::{
    answer::Answer,
    assertion,
    directory::{Consent, Token},
    text,
    world::{Shared, World},
};

const BEARER: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// A refusal: status, OAuth error, AADSTS code and text.
pub(super) type Refusal = (u16, &'static str, u32, String);

/// The answer to a token request; `form` is its body.
pub(super) fn token(shared: &Shared, tenant: &str, form: &str, correlation: &str) -> Answer {
    let asked = ask(shared, tenant, form);
    let mut world = shared.world();
    match asked.and_then(|client_id| grant(&mut world, shared, tenant, &client_id)) {
        Ok(jwt) => {
            let seconds = shared.options.token_lifetime.as_secs();
            let body = json!({
                "token_type": "Bearer", "expires_in": seconds, "ext_expires_in": seconds, "access_token": jwt,
            });
            Answer::json(200, &body).header("cache-control", "no-store, no-cache")
        }
        Err(refusal) => refused(&world, &refusal, correlation),
    }
}

fn refused(world: &World, (status, error, code, message): &Refusal, correlation: &str) -> Answer {
    let trace = uuid::Uuid::new_v4().to_string();
    let timestamp = text::whole_seconds(world.now_ms()).replace('T', " ");
    let description = format!(
        "AADSTS{code}: {message} Trace ID: {trace} Correlation ID: {correlation} Timestamp: {timestamp}"
    );
    let body = json!({
        "error": error, "error_description": description, "error_codes": [code], "timestamp": timestamp,
        "trace_id": trace, "correlation_id": correlation,
        "error_uri": format!("https://login.microsoftonline.com/error?code={code}"),
    });
    Answer::json(*status, &body)
}

/// Checks the form and the credential; gives the application's id.
fn ask(shared: &Shared, tenant: &str, form: &str) -> Result<String, Refusal> {
    let malformed = |what: &str| {
        shared.violation(format!("token request: {what}"));
        (
            400,
            "invalid_request",
            900_144,
            format!("The request body must contain the following parameter: '{what}'."),
        )
    };
    let form = text::pairs(form).ok_or_else(|| malformed("a form"))?;
    let grant_type = text::value(&form, "grant_type").ok_or_else(|| malformed("grant_type"))?;
    if grant_type != "client_credentials" {
        shared.violation(format!("token request: grant type {grant_type}"));
        return Err((
            400,
            "unsupported_grant_type",
            70_003,
            "The app requested an unsupported grant type.".into(),
        ));
    }
    let client_id = text::value(&form, "client_id").ok_or_else(|| malformed("client_id"))?;
    let scope = text::value(&form, "scope").ok_or_else(|| malformed("scope"))?;
    if !(scope.starts_with("https://") && scope.ends_with("/.default") && !scope.contains(' ')) {
        shared.violation(format!("token request: scope {scope}"));
        let text = format!(
            "The provided value for the input parameter 'scope' is not valid. The scope {scope} is not valid."
        );
        return Err((400, "invalid_scope", 1_002_012, text));
    }
    let world = shared.world();
    if !world.directory.tenants.contains(tenant) {
        let text = format!(
            "Tenant '{tenant}' not found. Check to make sure you have the correct tenant ID and are signing into \
             the correct cloud."
        );
        return Err((400, "invalid_request", 90_002, text));
    }
    let Some(app) = world.directory.apps.get(client_id) else { return Err(unknown(tenant, client_id)) };
    if let Some(secret) = text::value(&form, "client_secret") {
        return match app.secrets.get(secret) {
            Some(false) => Ok(client_id.to_owned()),
            Some(true) => {
                let text = format!("The provided client secret keys for app '{client_id}' are expired.");
                Err((401, "invalid_client", 7_000_222, text))
            }
            None => {
                let text = format!(
                    "Invalid client secret provided. Ensure the secret being sent in the request is the client secret value, not the client secret ID, for a secret added to app '{client_id}'."
                );
                Err((401, "invalid_client", 7_000_215, text))
            }
        };
    }
    let kind = text::value(&form, "client_assertion_type");
    let assertion = text::value(&form, "client_assertion");
    let (Some(BEARER), Some(assertion)) = (kind, assertion) else {
        drop(world);
        return Err(malformed("client_assertion' or 'client_secret"));
    };
    let url = format!("{}/{tenant}/oauth2/v2.0/token", shared.login);
    assertion::check(app, client_id, assertion, &url, world.now_ms() / 1000).map(|()| client_id.to_owned())
}

fn unknown(tenant: &str, client_id: &str) -> Refusal {
    let text = format!(
        "Application with identifier '{client_id}' was not found in the directory '{tenant}'. This can happen if \
         the application has not been installed by the administrator of the tenant or consented to by any user in \
         the tenant."
    );
    (400, "unauthorized_client", 700_016, text)
}

/// Issues a token if the tenant has consented.
fn grant(world: &mut World, shared: &Shared, tenant: &str, client_id: &str) -> Result<String, Refusal> {
    let consent = world.directory.apps.get(client_id).and_then(|app| app.consents.get(tenant)).cloned();
    let roles = match consent {
        Some(Consent::Granted(roles)) => roles,
        Some(Consent::Withdrawn) => {
            let text = format!(
                "The user or administrator has not consented to use the application with ID '{client_id}'. Send an interactive authorization request for this user and resource."
            );
            return Err((400, "invalid_grant", 65_001, text));
        }
        Some(Consent::NoServicePrincipal) => {
            let text = format!(
                "The client application '{client_id}' is missing service principal in the tenant '{tenant}'."
            );
            return Err((401, "unauthorized_client", 7_000_229, text));
        }
        None => return Err(unknown(tenant, client_id)),
    };
    let lifetime = i64::try_from(shared.options.token_lifetime.as_millis()).unwrap_or(i64::MAX);
    let expires_ms = world.now_ms().saturating_add(lifetime);
    Ok(world.issue(Token {
        tenant: tenant.to_owned(),
        client_id: client_id.to_owned(),
        roles,
        delegated: None,
        expires_ms,
        revoked: false,
    }))
}

/// What proves to a managed identity endpoint that the caller is on the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Proof {
    /// IMDS: `Metadata: true`.
    Metadata,
    /// App Service: `X-IDENTITY-HEADER`.
    IdentityHeader,
}

impl Proof {
    /// Versions of the endpoint. Of IMDS those since the first that issues tokens, as far as clients are known to ask for them.
    /// Sources: Microsoft, "Azure Instance Metadata Service", section "Supported API versions"; "How to use managed identities on
    /// an Azure VM" (2018-02-01 or later); App Service, "REST endpoint reference".
    const fn versions(self) -> &'static [&'static str] {
        match self {
            Self::Metadata => {
                &["2018-02-01", "2018-04-02", "2018-10-01", "2019-02-01", "2019-06-01", "2019-08-01"]
            }
            Self::IdentityHeader => &["2019-08-01"],
        }
    }
}

/// The answer of IMDS or App Service to `GET …?api-version=…&resource=…`.
pub(super) fn managed_identity(shared: &Shared, proof: Proof, shown: Option<&str>, query: &str) -> Answer {
    let refuse =
        |text: &str| Answer::json(400, &json!({"error": "invalid_request", "error_description": text}));
    let proven = match proof {
        Proof::Metadata => shown == Some("true"),
        Proof::IdentityHeader => shown == Some(shared.identity_secret.as_str()),
    };
    if !proven {
        shared.violation("managed identity: the proving header is missing or wrong".to_owned());
        return refuse("Required metadata header not specified");
    }
    let query = text::pairs(query).unwrap_or_default();
    let resource = text::value(&query, "resource").unwrap_or_default();
    let version = text::value(&query, "api-version").unwrap_or_default();
    let foreign = query.iter().find(|(name, _)| !["api-version", "resource", "client_id"].contains(&&**name));
    if !proof.versions().contains(&version)
        || !resource.starts_with("https://")
        || resource.ends_with(".default")
        || foreign.is_some()
    {
        shared.violation(format!(
            "managed identity: api-version ({version}) or resource ({resource}) is missing or wrong, or {foreign:?} is unknown"
        ));
        return refuse("Required query variables are missing");
    }
    let mut world = shared.world();
    let Some((tenant, client_id)) = world.directory.machine.clone() else {
        return refuse("Identity not found");
    };
    if text::value(&query, "client_id").is_some_and(|asked| asked != client_id) {
        return refuse("Identity not found");
    }
    match grant(&mut world, shared, &tenant, &client_id) {
        Ok(jwt) => {
            let seconds = shared.options.token_lifetime.as_secs();
            let expires = world.now_ms() / 1000 + i64::try_from(seconds).unwrap_or(0);
            Answer::json(200, &identity_token(&jwt, &client_id, resource, seconds, expires))
        }
        Err(refusal) => refused(&world, &refusal, ""),
    }
}

/// `expires_on` is a text of unix seconds (facts, section 8).
fn identity_token(jwt: &str, client_id: &str, resource: &str, seconds: u64, expires: i64) -> Value {
    json!({
        "access_token": jwt, "client_id": client_id, "expires_in": seconds.to_string(),
        "expires_on": expires.to_string(), "resource": resource, "token_type": "Bearer",
    })
}
