//! Tokens over HTTP: every kind, rotation, one request for many waiters, refusals.

use rcgen::{CertificateParams, KeyPair};

use super::*;
use crate::exchange::identity::Kind;

fn text(seen: &Seen) -> String {
    String::from_utf8_lossy(&seen.body).into_owned()
}

async fn open(exchange: &Exchange) -> Result<ImportSession, RestoreError> {
    exchange.session(&tenant(), &mailbox(), None).await
}

fn exchange_with(server: &Server, change: impl FnOnce(&mut Settings)) -> Exchange {
    let mut settings = settings(server);
    change(&mut settings);
    Exchange::connect(settings, metrics()).expect("connects")
}

fn refused(status: u16, code: u32) -> Plan {
    let description = format!("AADSTS{code}: no. Trace ID: 1");
    Plan::json(status, &json!({ "error": "x", "error_codes": [code], "error_description": description }))
}

#[tokio::test]
async fn a_secret_is_sent_and_read_again() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("secret");
    std::fs::write(&path, "one\n").expect("written");
    let server = graph(|_| Plan::json(401, &json!({}))).await;
    let exchange = exchange_with(&server, |s| s.identity.client_secret = Some(Secret::File(path.clone())));
    let error = open(&exchange).await.expect_err("refused");
    assert_eq!(
        (error.fault, error.reason),
        (Fault::Ours { scope: OursScope::Everything }, Reason::IdentityRejected)
    );
    std::fs::write(&path, "two").expect("written");
    assert!(open(&exchange).await.is_err());
    let asked = server.seen("/contoso.example/oauth2/v2.0/token");
    assert!(text(&asked[0]).contains("client_secret=one&") && text(&asked[0]).contains("client_id=client"));
    assert!(text(&asked[0]).contains(&format!("scope=https%3A%2F%2Flocalhost%3A{}%2F.default", server.port)));
    assert!(text(asked.last().expect("asked")).contains("client_secret=two&"));
}

#[tokio::test]
async fn a_401_is_answered_with_one_fresh_token() {
    let count = AtomicUsize::new(0);
    let server = Server::start(move |seen| {
        if seen.target.contains("/oauth2/") {
            let number = count.fetch_add(1, Ordering::SeqCst);
            return Plan::json(200, &json!({ "expires_in": 3600, "access_token": format!("t{number}") }));
        }
        if seen.headers["authorization"] == "Bearer t0" {
            Plan::json(401, &json!({}))
        } else {
            session_of(seen)
        }
    })
    .await;
    let exchange = exchange(&server);
    let jobs = (0..10).map(|number| {
        let mailbox = MailboxId::parse(&format!("MBX:{number}")).expect("a mailbox");
        let exchange = &exchange;
        async move { exchange.session(&tenant(), &mailbox, None).await }
    });
    let outcomes = futures_util::future::join_all(jobs).await;
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    assert_eq!(server.seen("/token").len(), 2);
}

#[tokio::test]
async fn tokens_are_renewed_at_half_of_their_life() {
    let count = AtomicUsize::new(0);
    let server = Server::start(move |seen| {
        if !seen.target.contains("/oauth2/") {
            return session_of(seen);
        }
        match count.fetch_add(1, Ordering::SeqCst) {
            1 => Plan::json(503, &json!({})),
            number => Plan::json(200, &json!({ "expires_in": 4, "access_token": format!("t{number}") })),
        }
    })
    .await;
    let exchange = exchange(&server);
    let bearer = async || exchange.identity.token(&tenant()).await.expect("a token").bearer().to_owned();
    assert_eq!(bearer().await, "t0");
    exchange.identity.renew_due().await;
    assert_eq!(server.seen("/token").len(), 1, "nothing is due");
    tokio::time::sleep(Duration::from_millis(2_100)).await;
    exchange.identity.renew_due().await;
    exchange.identity.renew_due().await;
    assert_eq!((server.seen("/token").len(), bearer().await.as_str()), (2, "t0"), "a failure backs off");
    tokio::time::sleep(Duration::from_millis(1_010)).await;
    exchange.identity.renew_due().await;
    assert_eq!((server.seen("/token").len(), bearer().await.as_str()), (3, "t2"));
}

#[tokio::test]
async fn refusals_are_told_apart_and_asked_for_once() {
    let everything = Fault::Ours { scope: OursScope::Everything };
    let tenant_only = Fault::Ours { scope: OursScope::Tenant };
    for (plan, fault) in [
        (refused(401, 7_000_215), everything),
        (refused(400, 700_016), tenant_only),
        (refused(400, 65_001), tenant_only),
        (Plan::json(400, &json!({})), everything),
    ] {
        let server = Server::start(move |_| plan.clone()).await;
        let exchange = exchange(&server);
        let jobs = (0..20).map(|number| {
            let mailbox = MailboxId::parse(&format!("MBX:{number}")).expect("a mailbox");
            let exchange = &exchange;
            async move { exchange.session(&tenant(), &mailbox, None).await.expect_err("refused") }
        });
        for error in futures_util::future::join_all(jobs).await {
            assert_eq!(error.fault, fault, "{error:?}");
            assert!(!format!("{error:?}").contains("hunter2"));
        }
        assert_eq!(server.seen("/token").len(), 1);
    }
}

#[tokio::test]
async fn a_sign_in_host_that_is_away_passes() {
    let nonsense = Plan::Answer(200, Vec::new(), "<html>".into());
    let html = Plan::Answer(502, vec![("retry-after", "7".to_owned())], "<html>".into());
    for (plan, pause) in [(Plan::CloseAfter, None), (Plan::Silent, None), (nonsense, None), (html, None)] {
        let told = format!("{plan:?}");
        let server = Server::start(move |_| plan.clone()).await;
        let error = open(&exchange(&server)).await.expect_err("away");
        let fault = Fault::Passing { dependency: Dependency::Identity, retry_after: pause };
        assert_eq!((error.fault, error.reason), (fault, Reason::ExchangeUnavailable), "{told}: {error}");
    }
}

#[tokio::test]
async fn tenants_that_are_not_allowed_are_not_asked_for() {
    let server = server(|_| imported()).await;
    let exchange = exchange_with(&server, |s| {
        s.identity.allowed_tenants = vec![TenantId::parse("other.example").expect("a tenant")];
    });
    let wanted = |name: &str| TenantId::parse(name).expect("a tenant");
    for (name, well) in [("CONTOSO.example", true), ("other.example", true), ("third.example", false)] {
        let outcome = exchange.session(&wanted(name), &mailbox(), None).await;
        assert_eq!(outcome.is_ok(), well, "{name}");
        if let Err(error) = outcome {
            assert_eq!((error.fault, error.reason), (Fault::Job, Reason::TenantNotAllowed));
        }
    }
    assert!(server.seen("third.example").is_empty());
}

#[tokio::test]
async fn a_token_file_is_read_again_and_its_absence_is_clear() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("token");
    std::fs::write(&path, "Bearer one\n").expect("written");
    let server = Server::start(|seen| match seen.headers["authorization"].as_str() {
        "Bearer one" => Plan::json(401, &json!({})),
        _ => session_of(seen),
    })
    .await;
    let exchange = exchange_with(&server, |s| s.identity.token_file = Some(path.clone()));
    let error = open(&exchange).await.expect_err("refused");
    assert_eq!(error.reason, Reason::IdentityRejected);
    assert!(error.message.contains("holds no other yet"), "{error}");
    std::fs::write(&path, "two").expect("written");
    assert!(open(&exchange).await.is_ok());
    std::fs::remove_file(&path).expect("removed");
    let other = exchange_with(&server, |s| s.identity.token_file = Some(path.clone()));
    let error = open(&other).await.expect_err("no file");
    assert_eq!(
        (error.fault, error.reason),
        (Fault::Ours { scope: OursScope::Everything }, Reason::IdentityRejected)
    );
    assert!(error.message.contains("cannot be read"), "{error}");
}

#[tokio::test]
async fn a_federated_token_is_read_as_it_rotates() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("federated");
    std::fs::write(&path, "first").expect("written");
    let server = graph(|_| Plan::json(401, &json!({}))).await;
    let exchange = exchange_with(&server, |s| {
        s.identity.client_secret = None;
        s.identity.federated_token_file = Some(path.clone());
    });
    assert!(open(&exchange).await.is_err());
    std::fs::write(&path, "second\n").expect("written");
    assert!(open(&exchange).await.is_err());
    let asked = server.seen("/token");
    assert!(text(&asked[0]).contains("client_assertion=first&"), "{}", text(&asked[0]));
    assert!(text(asked.last().expect("asked")).contains("client_assertion=second&"), "no line's end");
    std::fs::remove_file(&path).expect("removed");
    let error = open(&exchange_with(&server, |s| {
        s.identity.client_secret = None;
        s.identity.federated_token_file = Some(path.clone());
    }))
    .await
    .expect_err("no file");
    assert_eq!(error.reason, Reason::IdentityRejected, "{error}");
}

fn certificate(ended: bool) -> (KeyPair, rcgen::Certificate) {
    let key = KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).expect("a key");
    let mut params = CertificateParams::new(vec!["worker".to_owned()]).expect("parameters");
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(if ended { 2021 } else { 2090 }, 1, 1);
    let certificate = params.self_signed(&key).expect("a certificate");
    (key, certificate)
}

fn pkcs12(key: &KeyPair, certificate: &rcgen::Certificate, password: &str) -> Vec<u8> {
    let leaf = p12_keystore::Certificate::from_der(certificate.der()).expect("a certificate");
    let chain = p12_keystore::PrivateKeyChain::new(key.serialize_der(), b"id", [leaf]);
    let mut store = p12_keystore::KeyStore::new();
    store.add_entry("worker", p12_keystore::KeyStoreEntry::PrivateKeyChain(chain));
    store.writer(password).write().expect("written")
}

#[tokio::test]
async fn a_certificate_signs_an_assertion() {
    let dir = tempfile::tempdir().expect("a directory");
    let (key, certificate) = certificate(false);
    let pem = dir.path().join("both.pem");
    std::fs::write(&pem, certificate.pem() + &key.serialize_pem()).expect("written");
    let p12 = dir.path().join("both.p12");
    std::fs::write(&p12, pkcs12(&key, &certificate, "pass")).expect("written");
    for (path, password) in [(pem, None), (p12, Some(Secret::value("pass")))] {
        let server = server(|_| imported()).await;
        let exchange = exchange_with(&server, |s| {
            s.identity.client_secret = None;
            s.identity.certificate_file = Some(path.clone());
            s.identity.certificate_password = password;
        });
        open(&exchange).await.expect("a session");
        let body = text(&server.seen("/token")[0]);
        let assertion = body.split('&').find_map(|pair| pair.strip_prefix("client_assertion=")).expect("one");
        let header = jsonwebtoken::decode_header(assertion).expect("a header");
        assert_eq!((header.alg, header.typ.as_deref()), (jsonwebtoken::Algorithm::PS256, Some("JWT")));
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, certificate.der());
        assert_eq!(header.x5t_s256, Some(base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(digest)));
        let public = jsonwebtoken::DecodingKey::from_rsa_der(&pkcs1(&key));
        let mut rules = jsonwebtoken::Validation::new(jsonwebtoken::Algorithm::PS256);
        rules.set_audience(&[server.url("/contoso.example/oauth2/v2.0/token")]);
        let claims =
            jsonwebtoken::decode::<serde_json::Value>(assertion, &public, &rules).expect("signed").claims;
        assert_eq!((claims["iss"].as_str(), claims["sub"].as_str()), (Some("client"), Some("client")));
        assert!(exchange.metrics.credential_expiry.with_label_values(&["certificate"]).get() > 3e9);
    }
}

/// The PKCS#1 form of the public key, which is the end of its `SubjectPublicKeyInfo`.
fn pkcs1(key: &KeyPair) -> Vec<u8> {
    key.public_key_raw().to_vec()
}

#[tokio::test]
async fn certificates_that_cannot_be_used_are_named() {
    let dir = tempfile::tempdir().expect("a directory");
    let (key, good) = certificate(false);
    let (old_key, old) = certificate(true);
    for (content, password, says) in [
        ((old.pem() + &old_key.serialize_pem()).into_bytes(), "", "has expired"),
        (good.pem().into_bytes(), "", "no private key"),
        (key.serialize_pem().into_bytes(), "", "no certificate"),
        (pkcs12(&key, &good, "pass"), "wrong", "password is another"),
        (b"nonsense".to_vec(), "", "no PKCS#12"),
        (b"-----BEGIN CERTIFICATE-----\n!!\n".to_vec(), "", "no PEM"),
        (
            b"-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n".to_vec(),
            "",
            "encrypted",
        ),
    ] {
        let path = dir.path().join("certificate");
        std::fs::write(&path, content).expect("written");
        let server = server(|_| imported()).await;
        let exchange = exchange_with(&server, |s| {
            s.identity.kind = Kind::Certificate;
            s.identity.certificate_file = Some(path.clone());
            s.identity.certificate_password = (!password.is_empty()).then(|| Secret::value(password));
        });
        let error = open(&exchange).await.expect_err("refused");
        assert_eq!(
            (error.fault, error.reason),
            (Fault::Ours { scope: OursScope::Everything }, Reason::IdentityRejected)
        );
        assert!(
            error.message.contains(says) && error.message.contains("identity.certificate_file"),
            "{error}"
        );
        assert!(server.seen("/token").is_empty());
    }
}

#[test]
fn auto_chooses_by_what_is_present() {
    use crate::exchange::identity::Settings as Identity;
    let file = || Some(std::path::PathBuf::from("f"));
    let base = || Identity { client_id: Some("c".into()), ..Identity::default() };
    for (settings, kind) in [
        (Identity { token_file: file(), client_secret: Some(Secret::value("s")), ..base() }, Kind::TokenFile),
        (
            Identity { client_secret: Some(Secret::value("s")), certificate_file: file(), ..base() },
            Kind::ClientSecret,
        ),
        (Identity { certificate_file: file(), federated_token_file: file(), ..base() }, Kind::Certificate),
        (Identity { federated_token_file: file(), ..base() }, Kind::WorkloadIdentity),
        (base(), Kind::ManagedIdentity),
    ] {
        let exchange = Exchange::connect(of_microsoft(settings), metrics()).expect("connects");
        assert!(format!("{exchange:?}").contains(&format!("{kind:?}")), "{kind:?}");
    }
}
