//! One broker for the whole run; a stack of its own for each test.

use std::path::Path;

use anyhow::Result;
use restore_sandbox::{
    exchange,
    rabbitmq::{Broker, Options},
    stack::{Stack, exchange_options},
};
use tokio::sync::OnceCell;

/// The binary under test.
pub(crate) fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_restore-worker"))
}

static BROKER: OnceCell<Broker> = OnceCell::const_new();

/// The broker that all tests share, each in a vhost of its own.
pub(crate) async fn broker() -> Result<&'static Broker> {
    BROKER.get_or_try_init(|| Broker::from_env_or_start(Options::from_env())).await
}

/// A stack named after its test.
pub(crate) async fn stack(name: &str) -> Result<Stack> {
    stack_with(name, exchange_options()).await
}

/// A stack with an Exchange of its own kind.
pub(crate) async fn stack_with(name: &str, options: exchange::Options) -> Result<Stack> {
    Stack::start(broker().await?.create_vhost(name).await?, options).await
}
