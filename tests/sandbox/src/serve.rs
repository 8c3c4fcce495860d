//! A sandbox to play in: everything runs until Ctrl-C, and a file says how to get there.

use std::{collections::BTreeMap, fmt::Write as _, time::Instant};

use anyhow::{Context as _, Result};
use restore_sandbox::{
    exchange::Limits,
    rabbitmq::{Broker, Options},
    stack::{Stack, exchange_options},
};

use crate::{sample, started};

/// Where a worker of this sandbox serves health and metrics.
const ADMIN: &str = "127.0.0.1:9464";

/// Starts everything, prints how to use it, stays.
pub(crate) async fn run() -> Result<()> {
    println!();
    let since = Instant::now();
    let broker = Broker::from_env_or_start(Options::with_management()).await?;
    let vhost = format!("restore-sandbox-{}", uuid::Uuid::new_v4().simple());
    let uri = broker.create_vhost(&vhost).await?;
    let management = broker.management().context("a broker with the management plugin")?;
    let management = format!("http://{}", management.address());
    started("RabbitMQ", &management, since);
    // The real limits: who plays longer meets them.
    let options = restore_sandbox::exchange::Options { limits: Limits::default(), ..exchange_options() };
    let stack = Stack::start(uri, options).await?;
    sample::lay_out(&stack);
    started("S3", &stack.s3.endpoint(), Instant::now());
    started("Exchange", stack.exchange.graph_url(), Instant::now());
    let file = stack.dir().join("env");
    let exports = exports(&variables(&stack, &management));
    std::fs::write(&file, &exports)?;
    println!("\nIn another terminal:\n\n{exports}");
    println!("or all of it at once:\n\n  . {}\n", file.display());
    println!("Then the worker, and jobs for it (as many as you like):\n");
    println!("  target/debug/restore-worker run");
    println!("  target/debug/restore-sandbox submit-sample --jobs 10");
    println!("  curl http://{ADMIN}/metrics\n");
    println!(
        "A job that submit-sample publishes to the queue restore.jobs:\n\n{:#}\n",
        sample::job("my-job-1", 0)
    );
    println!("Ctrl-C ends everything here.");
    std::future::pending().await
}

fn variables(stack: &Stack, management: &str) -> BTreeMap<String, String> {
    let mut variables = stack.variables();
    for (name, value) in [
        ("AMQP_URI", stack.uri.as_str()),
        ("RABBITMQ_MANAGEMENT_URI", management),
        ("AWS_ENDPOINT_URL_S3", &stack.s3.endpoint()),
        ("RESTORE_WORKER__ADMIN__LISTEN", ADMIN),
        ("RESTORE_WORKER__LOG__FORMAT", "text"),
    ] {
        variables.insert(name.to_owned(), value.to_owned());
    }
    // A person's machine has a name of its own.
    variables.remove("HOSTNAME");
    variables
}

fn exports(variables: &BTreeMap<String, String>) -> String {
    variables.iter().fold(String::new(), |mut text, (name, value)| {
        writeln!(text, "  export {name}='{value}'").expect("writing to a String cannot fail");
        text
    })
}
