//! RabbitMQ's HTTP interface, as much of it as tests need.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::{Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::escaped;

const LIMIT: Duration = Duration::from_secs(30);
const LARGEST_ANSWER: usize = 64 << 20;

/// The address of a broker's management plugin, and who asks.
#[derive(Clone, Debug)]
pub struct Management {
    address: String,
    user: String,
    password: String,
}

impl Management {
    /// Takes `http://user:password@host:port`.
    pub fn at(uri: &str) -> Result<Self> {
        let uri: Uri = uri.parse().context("not a URI")?;
        ensure!(uri.scheme_str() == Some("http"), "the management URI must begin with http://");
        let authority = uri.authority().context("the management URI names no host")?.as_str();
        let (login, host) = authority.rsplit_once('@').unwrap_or(("guest:guest", authority));
        let (user, password) = login.split_once(':').context("the management URI names no password")?;
        let address = if host.contains(':') { host.to_owned() } else { format!("{host}:15672") };
        Ok(Self { address, user: user.to_owned(), password: password.to_owned() })
    }

    /// Where it listens, `host:port`.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Creates a virtual host in which the asking user may do everything.
    pub async fn create_vhost(&self, name: &str) -> Result<()> {
        let name = escaped(name);
        self.ask(Method::PUT, &format!("/api/vhosts/{name}"), Some(json!({}))).await?;
        let everything = json!({"configure": ".*", "write": ".*", "read": ".*"});
        let path = format!("/api/permissions/{name}/{}", escaped(&self.user));
        self.ask(Method::PUT, &path, Some(everything)).await?;
        Ok(())
    }

    /// Creates a user who may do everything in one virtual host.
    pub async fn create_user(&self, vhost: &str, name: &str, password: &str) -> Result<()> {
        let (vhost, name) = (escaped(vhost), escaped(name));
        let user = json!({"password": password, "tags": ""});
        self.ask(Method::PUT, &format!("/api/users/{name}"), Some(user)).await?;
        let everything = json!({"configure": ".*", "write": ".*", "read": ".*"});
        self.ask(Method::PUT, &format!("/api/permissions/{vhost}/{name}"), Some(everything)).await?;
        Ok(())
    }

    /// Deletes a virtual host with all that is in it.
    pub async fn delete_vhost(&self, name: &str) -> Result<()> {
        self.ask(Method::DELETE, &format!("/api/vhosts/{}", escaped(name)), None).await?;
        Ok(())
    }

    /// Asks for a path such as `/api/queues/vhost`.
    pub async fn get(&self, path: &str) -> Result<Value> {
        self.ask(Method::GET, path, None).await
    }

    /// Sends any other request; answers without a body give `Null`.
    pub async fn ask(&self, method: Method, path: &str, body: Option<Value>) -> Result<Value> {
        let what = format!("{method} {path}");
        let answer = timeout(LIMIT, self.exchange(method, path, body));
        let (status, body) =
            answer.await.with_context(|| format!("{what}: no answer"))?.context(what.clone())?;
        if !status.is_success() {
            bail!("{what}: {status} {}", String::from_utf8_lossy(&body));
        }
        if body.is_empty() { Ok(Value::Null) } else { Ok(serde_json::from_slice(&body)?) }
    }

    /// One request on a connection of its own.
    async fn exchange(&self, method: Method, path: &str, body: Option<Value>) -> Result<(StatusCode, Bytes)> {
        let stream = TcpStream::connect(&self.address).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let login = BASE64_STANDARD.encode(format!("{}:{}", self.user, self.password));
        let body = body.map(|body| body.to_string()).unwrap_or_default();
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, &self.address)
            .header(header::AUTHORIZATION, format!("Basic {login}"))
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))?;
        let answer = async {
            let answer = sender.send_request(request).await?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), LARGEST_ANSWER).collect().await;
            let body = body.map_err(|error| anyhow::anyhow!(error))?;
            // The connection's future ends when nobody can send on it any more.
            drop(sender);
            anyhow::Ok((status, body.to_bytes()))
        };
        let (answer, _) = tokio::join!(answer, connection);
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_with_and_without_login_and_port() -> Result<()> {
        let full = Management::at("http://me:secret@localhost:1234/")?;
        assert_eq!(
            (full.address(), full.user.as_str(), full.password.as_str()),
            ("localhost:1234", "me", "secret")
        );
        assert_eq!(Management::at("http://broker")?.address(), "broker:15672");
        assert!(Management::at("https://broker").is_err());
        Ok(())
    }
}
