//! The examples of `docs/emitters.md`, run as they stand against a broker and a worker, each user with no more rights than
//! `docs/operators.md` gives it.

use std::{
    path::Path,
    process::{Command, Output},
};

use anyhow::{Context as _, Result, ensure};
use restore_sandbox::{
    fts::ItemSpec,
    stack::{Stack, create_job},
};

use crate::support::{binary, broker, stack};

/// Where `charts/tools.sh` puts pika and amqplib.
fn tools() -> Result<std::path::PathBuf> {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().context("the build directory")?;
    let run = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/charts/tools.sh"))
        .env("CARGO_TARGET_DIR", target)
        .output()?;
    ensure!(run.status.success(), "charts/tools.sh: {}", String::from_utf8_lossy(&run.stderr));
    Ok(target.join("tools"))
}

/// Jobs for two items that are there, and on request one for an item that is not.
fn jobs(stack: &Stack, name: &str, with_a_missing_one: bool) -> Result<tempfile::NamedTempFile> {
    let mailbox = stack.mailbox("anna");
    let mut lines = Vec::new();
    for n in 0..2 {
        let key = format!("{name}-{n}.fts");
        stack.store(&key, &ItemSpec::mail(n, 20_000));
        lines.push(create_job(&format!("{name}-{n}"), &mailbox, &key).to_string());
    }
    if with_a_missing_one {
        lines.push(create_job(&format!("{name}-missing"), &mailbox, "missing.fts").to_string());
    }
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), lines.join("\n"))?;
    Ok(file)
}

/// The rights of a row in the permissions' table of `docs/operators.md`: configure, write, read.
fn rights(user: &str) -> Result<serde_json::Value> {
    let page = include_str!("../../docs/operators.md");
    let row = page.lines().find(|line| line.starts_with(&format!("| {user} | `^"))).context("the row")?;
    let cells: Vec<String> = row.split('`').skip(1).step_by(2).map(|cell| cell.replace("\\|", "|")).collect();
    let [configure, write, read] = &cells[..] else { anyhow::bail!("three patterns in {row}") };
    Ok(serde_json::json!({"configure": configure, "write": write, "read": read}))
}

/// A user with the rights that the page gives it; its URI.
async fn user(stack: &Stack, kind: &str, name: &str) -> Result<String> {
    let management = broker().await?.management().context("a broker with its management plugin")?;
    let uri = stack.uri.parse::<lapin::uri::AMQPUri>().map_err(anyhow::Error::msg)?;
    let name = format!("{name}-{kind}");
    management.create_user(&uri.vhost, &name, "p").await?;
    management
        .ask(reqwest::Method::PUT, &format!("/api/permissions/{}/{name}", uri.vhost), Some(rights(kind)?))
        .await?;
    let place = stack.uri.rsplit_once('@').context("a URI with a user")?.1;
    Ok(format!("amqp://{name}:p@{place}"))
}

/// Runs an example without holding up the test's own tasks.
async fn run(mut command: Command) -> Result<Output> {
    Ok(tokio::task::spawn_blocking(move || command.output()).await??)
}

/// The example publishes, reads every event, and tells success from failure; run again, it is told the same.
async fn an_emitter(name: &str, command: impl Fn(&Path) -> Command) -> Result<()> {
    let stack = stack(name).await?;
    let (worker, address) = (user(&stack, "worker", name).await?, user(&stack, "emitter", name).await?);
    let _worker = stack.worker(binary(), &[("BROKER__URI", &worker)]).await?;
    let (good, mixed) = (jobs(&stack, "good", false)?, jobs(&stack, "mixed", true)?);
    for _ in 0..2 {
        let mut emitter = command(good.path());
        emitter.env("AMQP_URI", &address);
        let output = run(emitter).await?;
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        ensure!(output.status.code() == Some(0), "{said}");
        ensure!(said.contains("good-0 succeeded ") && said.contains("good-1 succeeded "), "{said}");
    }
    let mut emitter = command(mixed.path());
    emitter.env("AMQP_URI", &address);
    let output = run(emitter).await?;
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    ensure!(output.status.code() == Some(1), "{said}");
    ensure!(said.contains("mixed-missing failed blob_not_found"), "{said}");
    ensure!(stack.exchange.items(&stack.mailbox("anna")).len() == 4, "each item once: {said}");
    Ok(())
}

fn example(name: &str) -> String {
    format!("{}/docs/examples/{name}", env!("CARGO_MANIFEST_DIR"))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_emitter_in_python_works() -> Result<()> {
    let tools = tokio::task::spawn_blocking(tools).await??;
    an_emitter("example_python", |jobs| {
        let mut python = Command::new("timeout");
        python
            .args(["60", "python3"])
            .arg(example("emitter.py"))
            .arg(jobs)
            .env("PYTHONPATH", tools.join("python"))
            .env("PYTHONDONTWRITEBYTECODE", "1");
        python
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_emitter_in_javascript_works() -> Result<()> {
    let tools = tokio::task::spawn_blocking(tools).await??;
    // Modules are looked for beside the file that imports them.
    let copy = tools.join("npm").join("emitter.mjs");
    std::fs::copy(example("emitter.mjs"), &copy)?;
    an_emitter("example_javascript", |jobs| {
        let mut node = Command::new("timeout");
        node.args(["60", "node"]).arg(&copy).arg(jobs);
        node
    })
    .await
}
