//! The pages for people: their links lead somewhere, and the keys, values and metrics that they name exist.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use restore_worker::config::layers;

use crate::chart;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// README, the chart's README, and everything in `docs/`.
fn pages() -> Vec<(PathBuf, String)> {
    let docs = std::fs::read_dir(root().join("docs")).expect("docs").flatten().map(|entry| entry.path());
    let docs = docs.filter(|path| path.extension().is_some_and(|e| e == "md"));
    let pages = docs.chain([root().join("README.md"), root().join("charts/restore-worker/README.md")]);
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).expect("text");
        (path, text)
    };
    pages.map(read).collect()
}

/// The anchors of a page, as GitHub makes them.
fn anchors(text: &str) -> BTreeSet<String> {
    let anchor = |line: &str| {
        let heading = line.strip_prefix('#')?.trim_start_matches('#').strip_prefix(' ')?;
        let kept = heading.to_lowercase();
        let kept = kept.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        Some(kept.collect::<String>().replace(' ', "-"))
    };
    text.lines().filter_map(anchor).collect()
}

#[test]
fn links_lead_somewhere() {
    let mut wrong = Vec::new();
    for (page, text) in pages() {
        for target in text.split("](").skip(1).filter_map(|text| text.split(')').next()) {
            if target.contains("://") {
                continue;
            }
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let file =
                if file.is_empty() { page.clone() } else { page.parent().expect("a folder").join(file) };
            let found = std::fs::read_to_string(&file);
            let there = found.is_ok_and(|text| anchor.is_empty() || anchors(&text).contains(anchor));
            if !there {
                wrong.push(format!("{}: {target}", page.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What stands in back ticks, outside of code blocks.
fn quoted(text: &str) -> Vec<String> {
    let mut fenced = false;
    let mut found = Vec::new();
    for line in text.lines() {
        if line.starts_with("```") {
            fenced = !fenced;
        } else if !fenced && !line.starts_with("    ") {
            found.extend(line.split('`').skip(1).step_by(2).map(str::to_owned));
        }
    }
    found
}

#[test]
fn keys_values_and_metrics_exist() {
    let keys = layers::flatten_yaml(layers::DEFAULTS, &layers::Source::Default).expect("YAML");
    let values: Vec<String> = chart::rows().into_iter().map(|row| row.key).collect();
    let metrics: BTreeSet<String> = chart::exposed().into_keys().collect();
    let sections: BTreeSet<&str> = keys.keys().filter_map(|key| Some(key.split_once('.')?.0)).collect();
    let parts: BTreeSet<&str> = values.iter().filter_map(|value| Some(value.split_once('.')?.0)).collect();
    let is_name = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._".contains(&b));
    let mut wrong = Vec::new();
    for (page, text) in pages() {
        for word in quoted(&text) {
            let word = word.split([':', '{', ' ']).next().expect("a word");
            let section = word.split('.').next().expect("a word");
            let below = |name: &str| name == word || name.starts_with(&format!("{word}."));
            let known = if !is_name(word) {
                true
            } else if let Some(metric) = word.strip_prefix("restore_").filter(|rest| !rest.is_empty()) {
                metrics.iter().any(|name| name.starts_with(&format!("restore_{metric}")))
            } else if !word.contains('.') || word == "config.yaml" {
                true
            } else if let Some(key) = word.strip_prefix("config.") {
                keys.keys().any(|known| known == key || known.starts_with(&format!("{key}.")))
            } else if sections.contains(section) || parts.contains(section) {
                layers::is_known(word, &keys)
                    || keys.keys().any(|key| below(key))
                    || values.iter().any(|v| below(v))
            } else {
                true
            };
            if !known {
                wrong.push(format!("{}: `{word}`", page.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
