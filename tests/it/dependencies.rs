//! Dependencies: one TLS stack, known licences, one registry. The rules stand in `deny.toml`, which `cargo deny` reads, too, where
//! it is installed.

use std::{collections::BTreeSet, process::Command};

use serde_json::Value;

fn metadata() -> Value {
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--format-version",
            "1",
            "--locked",
            "--filter-platform",
            "x86_64-unknown-linux-gnu",
        ])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("cargo's metadata is JSON")
}

/// The strings of a list in `deny.toml`.
fn listed(name: &str) -> BTreeSet<String> {
    let rules = include_str!("../../deny.toml");
    let list = rules.split(&format!("\n{name} = [")).nth(1).expect("the list is there");
    let list = list.split("\n]").next().expect("and ends");
    list.split('"').skip(1).step_by(2).map(str::to_owned).collect()
}

/// The packages that are built on Linux.
fn built(metadata: &Value) -> Vec<&Value> {
    let nodes = metadata["resolve"]["nodes"].as_array().expect("nodes");
    let ids: BTreeSet<_> = nodes.iter().map(|n| n["id"].as_str().expect("id")).collect();
    let packages = metadata["packages"].as_array().expect("packages");
    packages.iter().filter(|p| ids.contains(p["id"].as_str().expect("id"))).collect()
}

#[test]
fn every_licence_is_a_known_one() {
    let metadata = metadata();
    let allowed = listed("allow");
    let mut wrong = Vec::new();
    for package in built(&metadata) {
        let licence = package["license"].as_str().unwrap_or("(none)");
        // An expression holds if one of its OR branches consists of allowed licences alone.
        let plain = licence.replace('/', " OR ").replace(['(', ')'], "");
        let holds =
            plain.split(" OR ").any(|branch| branch.split(" AND ").all(|one| allowed.contains(one.trim())));
        if !holds {
            wrong.push(format!("{}: {licence}", package["name"].as_str().unwrap_or_default()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Names and versions of what is really linked: metadata also lists what no chosen feature needs.
fn linked() -> BTreeSet<(String, String)> {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--workspace", "--locked", "--prefix", "none", "--format", "{p}"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let words = |line: &str| {
        let mut words = line.split_whitespace();
        Some((words.next()?.to_owned(), words.next()?.trim_start_matches('v').to_owned()))
    };
    text.lines().filter_map(words).collect()
}

#[test]
fn one_tls_stack() {
    let linked = linked();
    assert!(linked.len() > 100, "{linked:?}");
    let banned = |(name, version): &&(String, String)| {
        matches!(name.as_str(), "ring" | "openssl-sys" | "native-tls")
            || (name == "rustls" && !version.starts_with("0.23."))
    };
    let wrong: Vec<_> = linked.iter().filter(banned).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[test]
fn everything_comes_from_the_registry() {
    let metadata = metadata();
    let foreign =
        |package: &&Value| package["source"].as_str().is_some_and(|source| !source.starts_with("registry+"));
    let wrong: Vec<_> = built(&metadata).into_iter().filter(foreign).map(|p| &p["name"]).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
}
