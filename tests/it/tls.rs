//! Broker and storage over TLS, with an authority of their own; who we are to the broker by certificate. (Exchange: `network.rs`.)

use std::{fs, time::Duration};

use anyhow::{Context as _, Result};
use restore_sandbox::{
    authority::{Authority, Signed},
    rabbitmq::{Management, Options, RabbitMq, TlsFiles, ensure_installed},
    stack::{Stack, exchange_options},
    wait::until,
};
use serde_json::Value;
use tempfile::TempDir;

use crate::support::{binary, broker, ends, restores};

/// In the broker's certificate, and known to no resolver.
const NAME: &str = "broker.sandbox.invalid";
const VHOST: &str = "tls";

/// A node with TLS that also takes a certificate instead of a password, and everything else.
struct Place {
    authority: Authority,
    node: RabbitMq,
    tls: TlsFiles,
    stack: Stack,
    dir: TempDir,
}

impl Place {
    async fn start() -> Result<Self> {
        ensure_installed().await?;
        // Below /tmp, which a broker in a root of its own sees, too.
        let dir = tempfile::tempdir_in("/tmp")?;
        let authority = Authority::new("broker")?;
        let tls = TlsFiles::write(dir.path(), &authority, &["localhost", NAME], false)?;
        let node = RabbitMq::start(Options {
            tls: Some(tls.clone()),
            plugins: vec!["rabbitmq_auth_mechanism_ssl"],
            extra_config: [
                "auth_mechanisms.1 = PLAIN",
                "auth_mechanisms.2 = EXTERNAL",
                "ssl_cert_login_from = common_name",
            ]
            .map(str::to_owned)
            .into(),
            ..Options::from_env()
        })
        .await?;
        let uri = node.create_vhost(VHOST).await?;
        let stack = Stack::start(uri, exchange_options()).await?;
        Ok(Self { authority, node, tls, stack, dir })
    }

    fn uri(&self) -> Result<String> {
        self.node.tls_uri(VHOST).context("a node with TLS")
    }

    fn ca(&self) -> String {
        self.tls.authority.display().to_string()
    }

    fn management(&self) -> Result<&Management> {
        self.node.management().context("a node with its plugin")
    }

    /// Puts a client certificate of this common name where the worker looks for it: its variables.
    fn present(&self, signed: &Signed) -> Result<[(&'static str, String); 2]> {
        let [certificate, key] = ["client.pem", "client.key"].map(|name| self.dir.path().join(name));
        fs::write(&certificate, &signed.certificate_pem)?;
        fs::write(&key, &signed.key_pem)?;
        Ok([
            ("BROKER__TLS__CERT_FILE", certificate.display().to_string()),
            ("BROKER__TLS__KEY_FILE", key.display().to_string()),
        ])
    }

    /// The connections over TLS, which are the worker's, as the broker sees them: of this user.
    async fn connections(&self, user: &str) -> Result<Vec<String>> {
        let all = self.management()?.get("/api/connections").await?;
        let of = |connection: &&Value| connection["user"] == user && connection["ssl"] == true;
        let names = all.as_array().context("a list")?.iter().filter(of);
        Ok(names.filter_map(|connection| connection["name"].as_str().map(str::to_owned)).collect())
    }

    /// Both connections of the worker are this user's.
    async fn signed_in(&self, user: &str) -> Result<Vec<String>> {
        until(&format!("signing in as {user}"), Duration::from_secs(60), async || {
            Ok(Some(self.connections(user).await?).filter(|names| names.len() == 2))
        })
        .await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_broker_is_known_by_its_certificate() -> Result<()> {
    let place = Place::start().await?;
    let (uri, ca) = (place.uri()?, place.ca());
    let elsewhere = uri.replace("localhost", "127.0.0.1");
    let trusted = ("BROKER__TLS__CA_FILE", ca.as_str());
    for (id, uri, name) in [("host", &uri, ""), ("name", &elsewhere, NAME)] {
        let variables = [("BROKER__URI", uri.as_str()), trusted, ("BROKER__TLS__SERVER_NAME", name)];
        let mut worker = place.stack.worker(binary(), &variables).await?;
        restores(&place.stack, &worker, id).await?;
        place.signed_in("guest").await?;
        assert!(worker.terminate().await?.success());
    }
    let other = place.dir.path().join("other.pem");
    fs::write(&other, Authority::new("somebody else")?.pem())?;
    let other = other.display().to_string();
    for (case, variables) in [
        ("nobody vouches for it", [("BROKER__URI", uri.as_str()), ("BROKER__TLS__SERVER_NAME", "")]),
        ("another does", [("BROKER__URI", uri.as_str()), ("BROKER__TLS__CA_FILE", other.as_str())]),
        ("for another name", [("BROKER__URI", elsewhere.as_str()), trusted]),
    ] {
        let (code, said) = ends(&place.stack, place.stack.variables_and(&variables)).await?;
        assert_eq!(code, Some(69), "{case}: {said}");
        assert!(said.contains("the broker is unavailable") && said.contains("certificate"), "{case}: {said}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_certificate_is_the_user_and_read_again_when_it_was_renewed() -> Result<()> {
    let place = Place::start().await?;
    for user in ["first", "second"] {
        place.management()?.create_user(VHOST, user, "a password that nobody uses").await?;
    }
    let uri = place.uri()?.replace("guest:guest@", "");
    let files = place.present(&place.authority.sign("first", &[])?)?;
    let ca = place.ca();
    let mut variables: Vec<_> = files.iter().map(|(name, path)| (*name, path.as_str())).collect();
    variables.extend([("BROKER__URI", &*uri), ("BROKER__TLS__CA_FILE", &*ca), ("BROKER__AUTH", "external")]);
    let worker = place.stack.worker(binary(), &variables).await?;
    let old = place.signed_in("first").await?;
    restores(&place.stack, &worker, "before").await?;

    place.present(&place.authority.sign("second", &[])?)?;
    for name in old {
        let path = format!("/api/connections/{}", name.replace(' ', "%20").replace('>', "%3E"));
        place.management()?.ask(http::Method::DELETE, &path, None).await?;
    }
    place.signed_in("second").await?;
    restores(&place.stack, &worker, "after").await?;
    drop(worker);

    place.present(&place.authority.sign("nobody", &[])?)?;
    let (code, said) = ends(&place.stack, place.stack.variables_and(&variables)).await?;
    assert_eq!(code, Some(77), "{said}");
    assert!(said.contains("the broker refuses us"), "{said}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_storage_is_known_by_its_certificate() -> Result<()> {
    let uri = broker().await?.create_vhost("tls_storage").await?;
    let authority = Authority::new("storage")?;
    let stack = Stack::start_tls(uri, &authority, exchange_options()).await?;
    assert!(stack.s3.endpoint().starts_with("https://"));
    let mut worker = stack.worker(binary(), &[]).await?;
    // Records of the later ones go by the ledger's own way of writing.
    for id in ["one", "two", "three"] {
        restores(&stack, &worker, id).await?;
    }
    assert!(worker.terminate().await?.success());
    let other = stack.dir().join("other.pem");
    fs::write(&other, Authority::new("somebody else")?.pem())?;
    let other = other.display().to_string();
    for file in ["", other.as_str()] {
        let (code, said) = ends(&stack, stack.variables_and(&[("STORAGE__CA_FILE", file)])).await?;
        assert_eq!(code, Some(69), "{said}");
        assert!(said.contains("certificate"), "{said}");
    }
    Ok(())
}
