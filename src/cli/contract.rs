//! `contract`: what other programs rely on, for machines.

use std::path::PathBuf;

use serde_json::Value;

use super::{
    Exit,
    operator::{self, Trouble, print},
};
use crate::{
    broker::{Mode, Wanted, topology},
    config::Operator,
    contract::{asyncapi, permissions, schema},
};

/// What to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::Subcommand)]
pub(super) enum Command {
    /// JSON Schema (2020-12) of a job
    JobSchema,
    /// JSON Schema (2020-12) of a result event
    ResultSchema,
    /// AsyncAPI 3 document: queues, messages, headers, the shard function with test vectors
    Asyncapi,
    /// RabbitMQ definitions of exchanges, queues and bindings, and each kind of user's least rights
    ///
    /// `rabbitmqctl import_definitions` and the management plugin take the output as it is; they ignore `permissionPatterns`,
    /// which holds the patterns for `rabbitmqctl set_permissions`.
    Topology,
}

/// Prints a part of the contract.
pub(super) async fn run(command: Command, file: Option<PathBuf>) -> Exit {
    operator::ended(show(command, file).await)
}

async fn show(command: Command, file: Option<PathBuf>) -> Result<Exit, Trouble> {
    let value = match command {
        Command::JobSchema => schema::job(),
        Command::ResultSchema => schema::result(),
        Command::Asyncapi => {
            let settings = operator::settings(file)?;
            asyncapi::document(
                &settings.broker.names,
                env!("CARGO_PKG_VERSION"),
                settings.broker.fleet.shards,
            )
        }
        Command::Topology => topology(&operator::settings(file)?).await?,
    };
    print(&format!("{value:#}\n"))?;
    Ok(Exit::Done)
}

async fn topology(settings: &Operator) -> Result<Value, Trouble> {
    let broker = &settings.broker;
    let shards = (broker.fleet.mode != Wanted::Is(Mode::Shared)).then_some(broker.fleet.shards);
    let vhost = broker.address.vhost().await?;
    let mut definitions = topology::definitions(&broker.names, &broker.tiers, shards, &vhost);
    let permissions = permissions::least(&broker.names, &broker.results.exchange);
    definitions["permissionPatterns"] = serde_json::to_value(permissions).map_err(anyhow::Error::from)?;
    Ok(definitions)
}
