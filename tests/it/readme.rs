//! The tables of the README and of `docs`, compared with the code.

use std::collections::BTreeSet;

use restore_worker::{
    cli::Exit,
    config,
    contract::names::Names,
    domain::{MailboxId, Reason, ShardCount},
};

const README: &str = include_str!("../../README.md");
const FAULTS: &str = include_str!("../../docs/exchange-faults.md");
const OPERATORS: &str = include_str!("../../docs/operators.md");

/// The first cells of a section's table in the README, without back ticks.
fn cells(section: &str) -> BTreeSet<String> {
    rows(README, section).collect()
}

/// The first cells of a page's table under this head, without back ticks.
fn table(page: &str, head: &str) -> BTreeSet<String> {
    let rows = page.split(&format!("\n| {head} |")).nth(1).expect("the table is there").lines().skip(2);
    let rows = rows.take_while(|line| line.starts_with("| "));
    rows.filter_map(|row| Some(row.split('|').nth(1)?.trim().trim_matches('`').to_owned())).collect()
}

/// The texts in a piece of code that begin so.
fn texts(source: &str, begin: &str) -> BTreeSet<String> {
    source.split('"').skip(1).step_by(2).filter(|text| text.starts_with(begin)).map(str::to_owned).collect()
}

#[test]
fn every_name_at_the_broker_has_its_row() {
    let headers =
        include_str!("../../src/contract/names.rs").split("pub mod header {").nth(1).expect("headers");
    let headers = headers.split("\n}\n").next().expect("its end");
    assert_eq!(table(OPERATORS, "header"), texts(headers, "restore-"));

    let kinds = include_str!("../../src/broker/publisher.rs").split("impl Kind {").nth(1).expect("kinds");
    assert_eq!(table(OPERATORS, "kind"), texts(kinds.split("\n}\n").next().expect("its end"), ""));

    let names = Names::new("restore", None, None);
    let count = ShardCount::new(7).expect("a count");
    let shard = names.shard(count.shards().next().expect("a shard")).replace("7.0", "<count>.<n>");
    let queues = [
        names.jobs().into(),
        names.wait("<tier>"),
        shard,
        names.given_up(),
        names.results(),
        names.dead_letters().into(),
        names.replies("<id>"),
        names.echo("<id>"),
        names.probe("<id>"),
    ];
    assert_eq!(table(OPERATORS, "queue"), queues.into());
}

/// The first cells of a section's table, in order.
fn rows<'a>(page: &'a str, section: &str) -> impl Iterator<Item = String> + use<'a> {
    let text = page.split(&format!("\n## {section}\n")).nth(1).expect("the section is there");
    let text = text.split("\n## ").next().expect("text");
    let rows = text.lines().filter(|l| l.starts_with("| ") && !l.starts_with("| ---")).skip(1);
    rows.filter_map(|row| Some(row.split('|').nth(1)?.trim().trim_matches('`').to_owned()))
}

#[test]
fn every_reason_has_its_row() {
    let reasons: BTreeSet<_> = Reason::ALL.iter().map(|r| r.as_str().to_owned()).collect();
    assert_eq!(cells("Reason codes"), reasons);
}

#[test]
fn every_key_has_its_row() {
    let defaults = config::layers::flatten_yaml(config::layers::DEFAULTS, &config::layers::Source::Default)
        .expect("YAML");
    assert_eq!(cells("Configuration"), defaults.into_keys().collect());
}

#[test]
fn every_metric_has_its_row() {
    let source = include_str!("../../src/metrics.rs");
    let source = source.split("#[cfg(test)]").next().expect("code");
    let named =
        source.split('"').skip(1).step_by(2).filter(|text| text.starts_with("restore_")).map(str::to_owned);
    assert_eq!(cells("Health and metrics"), named.collect());
}

#[test]
fn every_exit_code_has_its_row() {
    let exits = [
        Exit::Done,
        Exit::Failed,
        Exit::Unavailable,
        Exit::Internal,
        Exit::GraceOver,
        Exit::Refused,
        Exit::Configuration,
        Exit::Aborted,
    ];
    let mut codes: BTreeSet<_> = exits.iter().map(|exit| exit.code().to_string()).collect();
    codes.insert("2".into());
    assert_eq!(cells("Exit codes"), codes);
}

#[test]
fn the_shards_of_the_document_are_those_of_the_code() {
    let document = include_str!("../../docs/fleet.md");
    let table = document.split("| mailboxId |").nth(1).expect("the table");
    let rows: Vec<_> = table.lines().skip(2).take_while(|line| line.starts_with("| `")).collect();
    assert!(rows.len() >= 3);
    for row in rows {
        let cells: Vec<_> = row.trim_matches('|').split('|').map(|c| c.trim().trim_matches('`')).collect();
        let mailbox = MailboxId::parse(cells[0]).expect("a mailbox id");
        for (cell, count) in cells[1..].iter().zip([64, 256, 1_024]) {
            let count = ShardCount::new(count).expect("a count");
            assert_eq!(cell.parse(), Ok(count.shard_of(&mailbox).number()), "{row}");
        }
    }
}

#[test]
fn every_effect_of_the_model_has_its_row() {
    let source = include_str!("../sandbox/src/exchange/fault.rs");
    let names = source
        .split("pub fn name(&self)")
        .nth(1)
        .expect("the names")
        .split("fn stage")
        .next()
        .expect("names");
    let names = names.split('"').skip(1).step_by(2).map(str::to_owned).collect::<BTreeSet<_>>();
    assert!(names.contains("late_commit"), "{names:?}");
    assert_eq!(rows(FAULTS, "By script").collect::<BTreeSet<_>>(), names);
}

#[test]
fn every_guess_of_the_answers_has_its_row() {
    let source = include_str!("../../src/exchange/answer.rs");
    let table = source
        .split("static RULES: &[Rule] = &[")
        .nth(1)
        .expect("the table")
        .split("\n];")
        .next()
        .expect("its end");
    let lines = table.lines().filter(|line| !line.trim_start().starts_with("//"));
    let text = lines.flat_map(str::split_whitespace).collect::<Vec<_>>().join(" ");
    let bare = ["On::", "Status::", "Meaning::", "Reason::", "Limit::"]
        .iter()
        .fold(text, |text, path| text.replace(path, ""));
    let rules = bare.split("rule(").map(|rule| rule.trim().trim_end_matches([',', ')', ' ']));
    let guesses: Vec<_> = rules.filter_map(|rule| rule.strip_suffix(", Guess")).map(str::to_owned).collect();
    assert!(guesses.len() > 20, "{guesses:#?}");
    assert_eq!(rows(FAULTS, "Guesses").collect::<Vec<_>>(), guesses);
}

/// Every command that can be given, as it is typed.
fn commands(command: &clap::Command, above: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for sub in command.get_subcommands() {
        let name = format!("{above} {}", sub.get_name()).trim().to_owned();
        if sub.has_subcommands() {
            names.extend(commands(sub, &name));
        } else {
            names.insert(name);
        }
    }
    names
}

#[test]
fn every_command_has_its_row() {
    use clap::CommandFactory as _;
    assert_eq!(cells("Commands"), commands(&restore_worker::cli::Cli::command(), ""));
}
