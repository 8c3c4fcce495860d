//! The house's invariants, as `lib.rs` states them: who may import whom, and who may do what.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

const SRC: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src");

/// What each room may import of this crate, beside itself.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("domain", &[]),
    ("metrics", &[]),
    ("secret", &[]),
    ("certificates", &[]),
    ("lifecycle", &[]),
    ("telemetry", &[]),
    ("admin", &[]),
    ("fts", &["domain"]),
    ("contract", &["domain"]),
    ("s3_client", &["certificates", "domain"]),
    ("broker", &["certificates", "contract", "domain", "metrics", "secret"]),
    ("blob_store", &["domain", "fts", "metrics", "s3_client"]),
    ("exchange", &["domain", "metrics", "secret"]),
    ("ledger", &["domain", "metrics", "s3_client"]),
    (
        "pipeline",
        &[
            "blob_store",
            "broker",
            "contract",
            "domain",
            "exchange",
            "ledger",
            "lifecycle",
            "metrics",
            "telemetry",
        ],
    ),
    (
        "config",
        &[
            "blob_store",
            "broker",
            "contract",
            "domain",
            "exchange",
            "fts",
            "ledger",
            "pipeline",
            "s3_client",
            "secret",
            "telemetry",
        ],
    ),
    (
        "app",
        &[
            "admin",
            "blob_store",
            "broker",
            "config",
            "contract",
            "domain",
            "exchange",
            "ledger",
            "lifecycle",
            "metrics",
            "pipeline",
        ],
    ),
    (
        "cli",
        &[
            "app",
            "blob_store",
            "broker",
            "config",
            "contract",
            "domain",
            "exchange",
            "fts",
            "ledger",
            "lifecycle",
            "metrics",
            "telemetry",
        ],
    ),
];

/// Third-party crates that stay in their rooms.
const STAYS_IN: &[(&str, &[&str])] = &[
    // Telemetry names the log targets of lapin, none of its types.
    ("lapin::", &["broker", "telemetry"]),
    ("aws_sdk_s3::", &["blob_store", "ledger", "s3_client"]),
    ("aws_sigv4::", &["s3_client"]),
    ("aws_smithy_runtime_api::", &["s3_client"]),
    ("reqwest::", &["exchange"]),
    ("azure_identity::", &["exchange"]),
    ("axum::", &["admin"]),
    ("clap::", &["cli", "main"]),
    ("std::env::", &["config"]),
    ("tokio::spawn", &["lifecycle"]),
    ("ExitCode", &["main"]),
    ("opentelemetry", &["telemetry"]),
    ("indicatif::", &["cli"]),
    ("schemars::", &["contract"]),
];

fn sources(dir: &Path, into: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).expect("the sources are there").flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|e| e == "rs") {
            into.push(path);
        }
    }
}

/// The room of a file, and its code without comments and tests.
fn rooms() -> Vec<(String, PathBuf, String)> {
    let mut files = Vec::new();
    sources(Path::new(SRC), &mut files);
    let code = |path: &PathBuf| {
        let text = std::fs::read_to_string(path).expect("a source file is text");
        let end = text.find("#[cfg(test)]\nmod ").unwrap_or(text.len());
        text[..end].lines().filter(|l| !l.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
    };
    let room = |path: &PathBuf| {
        let relative = path.strip_prefix(SRC).expect("below src");
        let first = relative.components().next().expect("a name").as_os_str().to_string_lossy().into_owned();
        first.trim_end_matches(".rs").to_owned()
    };
    let is_test = |path: &PathBuf| {
        let mut names =
            path.components().map(|c| c.as_os_str().to_string_lossy().trim_end_matches(".rs").to_owned());
        names.any(|name| matches!(&*name, "tests" | "laws" | "testing") || name.starts_with("test_"))
    };
    files
        .into_iter()
        .filter(|f| !is_test(&f.strip_prefix(SRC).expect("below src").to_path_buf()))
        .map(|f| (room(&f), f.clone(), code(&f)))
        .collect()
}

/// Every room that a file's code names through `crate::`.
fn imports(code: &str) -> BTreeSet<String> {
    let word =
        |text: &str| text.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect::<String>();
    let mut found = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        let Some(list) = rest.strip_prefix('{') else {
            found.insert(word(rest));
            continue;
        };
        let mut depth = 0;
        let mut name_next = true;
        for (i, c) in list.char_indices() {
            match c {
                '}' if depth == 0 => break,
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 0 => name_next = true,
                c if name_next && c.is_ascii_alphabetic() && depth == 0 => {
                    found.insert(word(&list[i..]));
                    name_next = false;
                }
                _ => {}
            }
        }
    }
    found
}

#[test]
fn rooms_import_only_what_they_may() {
    let mut wrong = Vec::new();
    for (room, file, code) in rooms() {
        if matches!(room.as_str(), "lib" | "main") {
            continue;
        }
        let Some((_, allowed)) = MAY_IMPORT.iter().find(|(name, _)| *name == room) else {
            wrong.push(format!("{room}: a room that tests/it/house.rs does not know"));
            continue;
        };
        for import in imports(&code) {
            if import != room && !allowed.contains(&import.as_str()) {
                wrong.push(format!("{}: {room} imports {import}", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn third_party_types_stay_in_their_rooms() {
    let mut wrong = Vec::new();
    for (room, file, code) in rooms() {
        for (name, stays_in) in STAYS_IN {
            if code.contains(name) && !stays_in.contains(&room.as_str()) {
                wrong.push(format!("{}: {name} in {room}", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_file_says_what_it_is_for() {
    let mut files = Vec::new();
    sources(Path::new(SRC), &mut files);
    let silent = |f: &PathBuf| !std::fs::read_to_string(f).expect("text").starts_with("//!");
    let silent: Vec<_> = files.into_iter().filter(silent).collect();
    assert!(silent.is_empty(), "{silent:?}");
}

#[test]
fn the_test_reads_nested_imports() {
    let code = "use crate::{\n a::{B, c::D},\n e,\n};\nuse crate::f::G; let x = crate::h::i();";
    assert_eq!(imports(code).into_iter().collect::<Vec<_>>(), ["a", "e", "f", "h"]);
}
