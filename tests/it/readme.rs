//! The README's tables, compared with the code.

use std::collections::BTreeSet;

use restore_worker::{cli::Exit, config, domain::Reason};

const README: &str = include_str!("../../README.md");

/// The first cells of a section's table, without back ticks.
fn cells(section: &str) -> BTreeSet<String> {
    let text = README.split(&format!("\n## {section}\n")).nth(1).expect("the section is there");
    let text = text.split("\n## ").next().expect("text");
    let rows = text.lines().filter(|l| l.starts_with("| ") && !l.starts_with("| ---")).skip(1);
    rows.filter_map(|row| Some(row.split('|').nth(1)?.trim().trim_matches('`').to_owned())).collect()
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
    let later = README
        .split("without effect until a later version: ")
        .nth(1)
        .expect("the list")
        .lines()
        .next()
        .expect("a line");
    let later: Vec<_> = later.split('`').skip(1).step_by(2).collect();
    assert_eq!(later, config::LATER);
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
