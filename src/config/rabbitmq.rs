//! `broker` and `fleet`: where RabbitMQ is, how we sign in, and what is agreed on there.

use std::path::PathBuf;

use rustls::pki_types::ServerName;

use super::reader::{Reader, parse_duration};
use crate::{broker, contract::names::Names, domain::ShardCount, secret::Secret};

pub(super) fn settings(r: &mut Reader, hostname: Option<String>) -> broker::Settings {
    let name = |text: &str| match text.len() {
        1..=200 if text.bytes().all(|b| b.is_ascii_graphic()) => Ok(text.to_owned()),
        _ => Err("must be 1 to 200 visible characters"),
    };
    let prefix = r.parsed("broker.prefix", name);
    let tiers = wait_tiers(r);
    broker::Settings {
        address: address(r),
        names: Names::new(&prefix, r.optional("broker.queue", name), r.optional("broker.dead_letters", name)),
        declare: r.choice(
            "broker.topology",
            &[("declare", broker::Declare::Missing), ("passive", broker::Declare::Nothing)],
        ),
        prefetch: r.integer("broker.prefetch", 1, u16::MAX),
        confirm_timeout: r.duration("broker.confirm_timeout"),
        publish_channels: usize::from(r.integer::<u16>("broker.publish_channels", 1, 1_000)),
        results: broker::Results {
            exchange: if r.is_default("broker.results.exchange") {
                prefix
            } else {
                r.text("broker.results.exchange").unwrap_or_default()
            },
            routing_key: if r.is_default("broker.results.routing_key") && !r.is_default("broker.prefix") {
                format!("{}.results", r.text("broker.prefix").unwrap_or_default())
            } else {
                r.parsed("broker.results.routing_key", name)
            },
            honour_reply_to: r.boolean("broker.results.honour_reply_to"),
        },
        tiers,
        worker: hostname.unwrap_or_else(|| "restore-worker".into()),
        fleet: fleet(r),
    }
}

fn address(r: &mut Reader) -> broker::Address {
    let auth =
        r.choice("broker.auth", &[("plain", broker::Auth::Plain), ("external", broker::Auth::External)]);
    let uri = r.secret("broker.uri");
    if r.text("broker.uri_file").is_none() {
        r.parsed("broker.uri", |text| broker::parse_uri(text).map(drop));
    }
    let tls = broker_tls(r);
    if auth == broker::Auth::External && tls.client.is_none() {
        r.refuse("broker.auth", "external needs tls.cert_file and tls.key_file");
    }
    broker::Address {
        uri: uri.unwrap_or_else(|| Secret::value("")),
        username: r.text("broker.username"),
        password: r.secret("broker.password"),
        auth,
        heartbeat: r.duration("broker.heartbeat"),
        tls,
    }
}

fn broker_tls(r: &mut Reader) -> broker::Tls {
    let path = |r: &mut Reader, key| r.text(key).map(PathBuf::from);
    let client = match (path(r, "broker.tls.cert_file"), path(r, "broker.tls.key_file")) {
        (Some(cert_file), Some(key_file)) => Some(broker::ClientCertificate { cert_file, key_file }),
        (None, None) => None,
        (Some(_), None) | (None, Some(_)) => {
            r.refuse("broker.tls.cert_file", "cert_file and key_file are needed together");
            None
        }
    };
    let name = |text: &str| match ServerName::try_from(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => Err("must be a DNS name or an IP address"),
    };
    let ca_file = path(r, "broker.tls.ca_file");
    let tls = broker::Tls { ca_file, client, server_name: r.optional("broker.tls.server_name", name) };
    // Read for each connection; what can be known at the start is said at the start.
    if let Err((key, why)) = tls.read() {
        r.refuse(key, why);
    }
    tls
}

fn wait_tiers(r: &mut Reader) -> Vec<broker::Tier> {
    let tier = |text: &str| parse_duration(text).map(|ttl| broker::Tier { name: text.to_owned(), ttl });
    let tiers = r.list("broker.wait_tiers", tier);
    if tiers.is_empty() {
        r.refuse("broker.wait_tiers", "must name at least one tier");
    }
    if !tiers.iter().is_sorted_by(|a, b| a.ttl < b.ttl) {
        r.refuse("broker.wait_tiers", "must grow");
    }
    tiers
}

fn fleet(r: &mut Reader) -> broker::Fleet {
    use broker::{Mode, Wanted};
    let count =
        |text: &str| text.parse().map_err(|_| "must be a number from 1 to 4096").and_then(ShardCount::new);
    broker::Fleet {
        mode: r.choice(
            "fleet.mode",
            &[
                ("auto", Wanted::Auto),
                ("sharded", Wanted::Is(Mode::Sharded)),
                ("shared", Wanted::Is(Mode::Shared)),
            ],
        ),
        shards: r.parsed("fleet.shards", count),
        prefetch: r.integer("fleet.prefetch", 1, u16::MAX),
        previous: r.optional("fleet.previous_shards", count),
    }
}
