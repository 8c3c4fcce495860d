//! Entra and the managed identity endpoints.

use aws_lc_rs::digest;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};

use super::super::{ClientCertificate, Consent, Operation};
use super::*;

impl Stage {
    async fn token(&self, tenant: &str, form: &[(&str, &str)]) -> Result<(u16, Value)> {
        let url = format!("{}/{tenant}/oauth2/v2.0/token", self.exchange.login_url());
        let encode = super::super::text::encode_query;
        let form: Vec<String> = form.iter().map(|(k, v)| format!("{k}={}", encode(v))).collect();
        let request = self.client.post(url).header("content-type", "application/x-www-form-urlencoded");
        let response = request.body(form.join("&")).send().await?;
        Ok((response.status().as_u16(), json_of(response).await?))
    }

    async fn by_secret(&self, tenant: &str, app: &str, secret: &str) -> Result<(u16, Value)> {
        let scope = ("scope", "https://graph.microsoft.com/.default");
        let grant = ("grant_type", "client_credentials");
        self.token(tenant, &[grant, scope, ("client_id", app), ("client_secret", secret)]).await
    }

    async fn by_assertion(&self, assertion: &str) -> Result<(u16, Value)> {
        let form = [
            ("grant_type", "client_credentials"),
            ("scope", "https://graph.microsoft.com/.default"),
            ("client_id", APP),
            ("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"),
            ("client_assertion", assertion),
        ];
        self.token(TENANT, &form).await
    }
}

fn code(answer: &(u16, Value)) -> u64 {
    answer.1["error_codes"][0].as_u64().unwrap_or(0)
}

#[tokio::test]
async fn a_secret_gives_a_token_that_graph_takes() -> Result<()> {
    let mut stage = Stage::new().await?;
    let (status, answer) = stage.by_secret(TENANT, APP, "secret-1").await?;
    assert_eq!((status, &answer["expires_in"]), (200, &json!(3599)));
    stage.token = answer["access_token"].as_str().context("no token")?.to_owned();
    let claims = stage.token.split('.').nth(1).context("no JWT")?;
    let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims)?)?;
    assert_eq!((&claims["tid"], &claims["roles"]), (&json!(TENANT), &json!(ALL_ROLES)));
    assert_eq!(stage.session_request("v1.0", MAILBOX).send().await?.status(), 200);
    let (_, again) = stage.by_secret(TENANT, APP, "secret-1").await?;
    assert_ne!(again["access_token"], json!(stage.token), "each token is another");
    assert!(stage.exchange.secrets().contains(&stage.token));
    assert_eq!(stage.exchange.count(Operation::Token, 200), 2);
    stage.no_violations()
}

#[tokio::test]
async fn every_refusal_has_its_code() -> Result<()> {
    let stage = Stage::new().await?;
    assert_eq!(code(&stage.by_secret(TENANT, APP, "wrong").await?), 7_000_215);
    assert_eq!(code(&stage.by_secret("nowhere", APP, "secret-1").await?), 90_002);
    assert_eq!(code(&stage.by_secret(TENANT, "nobody", "secret-1").await?), 700_016);
    stage.exchange.set_consent(TENANT, APP, Consent::NoServicePrincipal);
    assert_eq!(code(&stage.by_secret(TENANT, APP, "secret-1").await?), 7_000_229);
    stage.exchange.withdraw_consent(TENANT);
    let (status, answer) = stage.by_secret(TENANT, APP, "secret-1").await?;
    assert_eq!((status, answer["error"].as_str()), (400, Some("invalid_grant")));
    assert!(answer["error_description"].as_str().is_some_and(|t| t.starts_with("AADSTS65001: ")));
    stage.exchange.forget_app(TENANT, APP);
    assert_eq!(code(&stage.by_secret(TENANT, APP, "secret-1").await?), 700_016);
    stage.exchange.expire_secret(APP);
    assert_eq!(code(&stage.by_secret(TENANT, APP, "secret-1").await?), 7_000_222);
    stage.exchange.revoke_secret(APP);
    assert_eq!(code(&stage.by_secret(TENANT, APP, "secret-1").await?), 7_000_215);
    stage.no_violations()
}

#[tokio::test]
async fn a_form_that_is_wrong_is_a_violation() -> Result<()> {
    let stage = Stage::new().await?;
    let grant = ("grant_type", "client_credentials");
    let scope = ("scope", "https://graph.microsoft.com/Mail.Read");
    let (status, _) = stage.token(TENANT, &[grant, scope, ("client_id", APP)]).await?;
    assert_eq!(status, 400);
    stage.one_violation("scope")
}

fn assertion(
    certificate: &ClientCertificate,
    change: impl FnOnce(&mut Header, &mut Value),
) -> Result<String> {
    let now = i64::try_from(jsonwebtoken::get_current_timestamp())?;
    let mut header = Header::new(Algorithm::PS256);
    header.x5t_s256 = Some(URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, &certificate.der)));
    let mut claims =
        json!({"aud": "", "iss": APP, "sub": APP, "jti": "1", "nbf": now, "iat": now, "exp": now + 300});
    change(&mut header, &mut claims);
    Ok(jsonwebtoken::encode(&header, &claims, &EncodingKey::from_rsa_pem(certificate.key_pem.as_bytes())?)?)
}

#[tokio::test]
async fn an_assertion_is_verified() -> Result<()> {
    let stage = Stage::new().await?;
    let certificate = ClientCertificate::generate()?;
    stage.exchange.add_certificate(APP, &certificate.der)?;
    let url = format!("{}/{TENANT}/oauth2/v2.0/token", stage.exchange.login_url());
    let aud = |claims: &mut Value| claims["aud"] = json!(url);

    let good = assertion(&certificate, |_, c| aud(c))?;
    assert_eq!(stage.by_assertion(&good).await?.0, 200);
    let cases = [
        (700_023, assertion(&certificate, |_, _| {})?),
        (700_021, assertion(&certificate, |_, c| (aud(c), c["iss"] = json!("x")).1)?),
        (700_024, assertion(&certificate, |_, c| (aud(c), c["exp"] = json!(1000), c["nbf"] = json!(900)).1)?),
        (700_024, assertion(&certificate, |_, c| (aud(c), c["exp"] = json!(9_999_999_999_i64)).1)?),
        (700_027, assertion(&certificate, |_, c| (aud(c), c["jti"] = json!("")).1)?),
        (700_027, assertion(&certificate, |h, c| (aud(c), h.alg = Algorithm::RS256).1)?),
        (700_027, assertion(&certificate, |h, c| (aud(c), h.x5t_s256 = Some("AA".into())).1)?),
        (70_021, assertion(&certificate, |h, c| (aud(c), h.x5t_s256 = None).1)?),
    ];
    for (want, assertion) in cases {
        assert_eq!(code(&stage.by_assertion(&assertion).await?), want);
    }
    let other = ClientCertificate::generate()?;
    let thumbprint = URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, &certificate.der));
    let forged = assertion(&other, |h, c| (aud(c), h.x5t_s256 = Some(thumbprint)).1)?;
    assert_eq!(code(&stage.by_assertion(&forged).await?), 700_027);
    stage.exchange.revoke_certificates(APP);
    assert_eq!(code(&stage.by_assertion(&good).await?), 700_027);
    stage.no_violations()
}

#[tokio::test]
async fn a_federated_token_is_known_or_refused() -> Result<()> {
    let stage = Stage::new().await?;
    let token = stage.exchange.issue_token(TENANT, APP, &[], Duration::from_mins(1));
    assert_eq!(code(&stage.by_assertion(&token).await?), 70_021);
    stage.exchange.add_federated_token(APP, &token);
    assert_eq!(stage.by_assertion(&token).await?.0, 200);
    stage.no_violations()
}

#[tokio::test]
async fn a_machine_has_an_identity() -> Result<()> {
    let stage = Stage::new().await?;
    let base = stage.exchange.identity_url().to_owned();
    let imds = format!(
        "{base}/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https%3A%2F%2Fgraph.microsoft.com"
    );
    let service =
        format!("{base}/msi/token?api-version=2019-08-01&resource=https%3A%2F%2Fgraph.microsoft.com");
    let ask = |url: &str| stage.client.get(url).header("metadata", "true");
    assert_eq!(ask(&imds).send().await?.status(), 400, "no identity is assigned");
    stage.exchange.set_managed_identity(TENANT, APP);
    let answer = json_of(ask(&imds).send().await?).await?;
    assert!(answer["expires_on"].as_str().is_some_and(|text| text.parse::<u64>().is_ok()), "{answer}");
    assert_eq!(ask(&format!("{imds}&client_id=other")).send().await?.status(), 400);
    let header = stage.exchange.identity_header().to_owned();
    let request = stage.client.get(&service).header("x-identity-header", header);
    assert_eq!(request.send().await?.status(), 200);
    stage.no_violations()?;
    assert_eq!(stage.client.get(&imds).send().await?.status(), 400);
    stage.one_violation("proving header")
}
