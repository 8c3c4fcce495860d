//! The chart, compared with the code: its values with its README and its schema, its copy of the defaults with the worker's own,
//! every query of dashboard and alerts with the metrics. `charts/check.sh` has renderings judged by real tools.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    path::Path,
    process::Command,
};

use prometheus::core::{Collector, Desc};
use restore_worker::{config::layers, metrics::Metrics};
use serde_json::Value;

use crate::support::binary;

const VALUES: &str = include_str!("../../charts/restore-worker/values.yaml");
const SCHEMA: &str = include_str!("../../charts/restore-worker/values.schema.json");
const README: &str = include_str!("../../charts/restore-worker/README.md");
const ALERTS: &str = include_str!("../../charts/restore-worker/files/alerts.yaml");
const DASHBOARD: &str = include_str!("../../charts/restore-worker/files/dashboard.json");

/// One value of the chart.
pub(crate) struct Row {
    pub(crate) key: String,
    default: String,
    meaning: String,
}

/// The values, in order, each with the comment above it. Reads the plain style that `values.yaml` is written in: two spaces for
/// a level, lists and empty maps on one line.
pub(crate) fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    let mut path: Vec<&str> = Vec::new();
    let mut meaning = String::new();
    for line in VALUES.lines().skip_while(|line| !line.is_empty()) {
        let text = line.trim_start();
        if let Some(comment) = text.strip_prefix("# ") {
            assert!(meaning.is_empty(), "two comment lines at {line:?}");
            comment.clone_into(&mut meaning);
            continue;
        }
        let Some((key, default)) = text.split_once(':') else {
            assert!(text.is_empty(), "not understood: {line:?}");
            continue;
        };
        path.truncate((line.len() - text.len()) / 2);
        path.push(key);
        match default.trim() {
            "" => assert!(meaning.is_empty(), "{key} is a section: its keys have the comments"),
            default => {
                assert!(!meaning.is_empty(), "{} has no comment", path.join("."));
                rows.push(Row {
                    key: path.join("."),
                    default: default.to_owned(),
                    meaning: std::mem::take(&mut meaning),
                });
            }
        }
    }
    rows
}

#[test]
fn every_value_has_its_row() {
    let cell = |text: &str| text.replace('|', "\\|");
    let shown = |default: &str| match default {
        "\"\"" => String::new(),
        text => format!("`{}`", cell(text)),
    };
    let mut table = String::from("| value | default | meaning |\n| --- | --- | --- |\n");
    for Row { key, default, meaning } in rows() {
        writeln!(table, "| `{key}` | {} | {} |", shown(&default), cell(&meaning))
            .expect("writing to a String cannot fail");
    }
    assert!(README.contains(&table), "charts/restore-worker/README.md should hold:\n{table}");
}

/// Paths of a schema's leaves; every object on the way must be closed or be a map of the user's own.
fn schema_leaves(schema: &Value, path: &str, into: &mut BTreeSet<String>) {
    let Some(properties) = schema["properties"].as_object() else {
        assert!(!path.is_empty(), "an empty schema");
        into.insert(path.to_owned());
        return;
    };
    assert_eq!(schema["additionalProperties"], false, "{path} takes what it does not know");
    for (name, below) in properties {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        schema_leaves(below, &path, into);
    }
}

#[test]
fn the_schema_knows_the_values_and_nothing_else() {
    let schema: Value = serde_json::from_str(SCHEMA).expect("JSON");
    let mut leaves = BTreeSet::new();
    schema_leaves(&schema, "", &mut leaves);
    // Helm itself puts `global` there; the worker's keys have a test of their own.
    leaves.retain(|leaf| leaf != "global" && !leaf.starts_with("config."));
    // A map of the user's own may have defaults in it.
    let covers = |leaf: &str, key: &str| key == leaf || key.starts_with(&format!("{leaf}."));
    let keys: Vec<String> = rows().into_iter().map(|row| row.key).filter(|key| key != "config").collect();
    let unknown: Vec<_> = keys.iter().filter(|key| !leaves.iter().any(|leaf| covers(leaf, key))).collect();
    assert!(unknown.is_empty(), "the schema misses {unknown:?}");
    let idle: Vec<_> = leaves.iter().filter(|leaf| !keys.iter().any(|key| covers(leaf, key))).collect();
    assert!(idle.is_empty(), "only the schema has {idle:?}");
}

#[test]
fn the_schema_knows_the_workers_keys_but_no_secret() {
    let schema: Value = serde_json::from_str(SCHEMA).expect("JSON");
    let mut leaves = BTreeSet::new();
    schema_leaves(&schema["properties"]["config"], "", &mut leaves);
    let defaults =
        layers::flatten_yaml(layers::DEFAULTS, &layers::Source::Default).expect("the defaults are YAML");
    let mut keys: BTreeSet<String> = defaults.into_keys().collect();
    for secret in layers::SECRETS {
        keys.insert(format!("{secret}_file"));
        // The address without user and password is no secret; a pattern refuses the two.
        assert!(secret == "broker.uri" || keys.remove(secret), "{secret}");
    }
    assert_eq!(leaves, keys);
    let uri = &schema["properties"]["config"]["properties"]["broker"]["properties"]["uri"]["pattern"];
    assert_eq!(uri, "^(amqps?://[^@]*)?$");
}

#[test]
fn the_charts_defaults_are_the_workers() {
    let copy = include_str!("../../charts/restore-worker/files/defaults.yaml");
    assert!(
        copy == layers::DEFAULTS,
        "cp config/restore-worker.yaml charts/restore-worker/files/defaults.yaml"
    );
}

#[test]
fn the_charts_version_is_the_workers() {
    let chart = include_str!("../../charts/restore-worker/Chart.yaml");
    for name in ["version", "appVersion"] {
        let line = format!("{name}: {}", env!("CARGO_PKG_VERSION"));
        assert!(chart.lines().any(|l| l == line), "Chart.yaml: {line}");
    }
}

/// Every metric that the worker can show, with its labels, from the registered metrics themselves.
pub(crate) fn exposed() -> BTreeMap<String, BTreeSet<String>> {
    let m = Metrics::register("0.0.0", "test").expect("registers");
    let described: [&dyn Collector; 27] = [
        &m.jobs,
        &m.job_duration,
        &m.stage_duration,
        &m.jobs_in_flight,
        &m.jobs_waiting,
        &m.slots,
        &m.oldest_job_age,
        &m.deliveries,
        &m.bytes,
        &m.graph_requests,
        &m.graph_request_duration,
        &m.throttled,
        &m.lanes,
        &m.sessions,
        &m.ledger_operations,
        &m.in_doubt,
        &m.preflight_findings,
        &m.consumer_state,
        &m.fleet_mode,
        &m.intake,
        &m.shards_active,
        &m.shard_handovers,
        &m.credential_expiry,
        &m.broker_connected,
        &m.broker_reconnects,
        &m.publish,
        &m.last_success,
    ];
    let label_names = |desc: &Desc| (desc.fq_name.clone(), desc.variable_labels.iter().cloned().collect());
    let mut exposed: BTreeMap<String, BTreeSet<String>> =
        described.iter().flat_map(|c| c.desc()).map(label_names).collect();
    for name in [
        "restore_job_duration_seconds",
        "restore_stage_duration_seconds",
        "restore_graph_request_duration_seconds",
    ] {
        let labels = exposed.remove(name).expect("a histogram");
        let with_le = labels.iter().cloned().chain(["le".to_owned()]).collect();
        exposed.insert(format!("{name}_bucket"), with_le);
        for part in ["sum", "count"] {
            exposed.insert(format!("{name}_{part}"), labels.clone());
        }
    }
    // What has no labels, or has them from the start, shows in the text: build_info and process_*.
    for line in m.render().expect("renders").lines().filter(|line| !line.starts_with('#')) {
        let (name, rest) = line.split_at(line.find(['{', ' ']).expect("a sample"));
        let labels = rest.split(['{', ',']).filter_map(|pair| Some(pair.split_once("=\"")?.0.to_owned()));
        exposed.entry(name.to_owned()).or_insert_with(|| labels.collect());
    }
    exposed
}

/// Labels that the scrape adds.
const TARGET: [&str; 5] = ["namespace", "job", "pod", "instance", "container"];

/// RabbitMQ's own, in the alerts that need them.
const RABBITMQ: [(&str, &[&str]); 1] = [("rabbitmq_detailed_queue_messages_ready", &["vhost", "queue"])];

/// A query's text, taken apart as far as names are concerned.
#[derive(Debug, Default)]
struct Named {
    /// Metrics with the labels (and values) of their matchers.
    metrics: Vec<(String, Vec<(String, String)>)>,
    /// Labels of `by (…)` and `on (…)`.
    grouped: Vec<String>,
}

fn named(query: &str) -> Named {
    let mut found = Named::default();
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut rest = query;
    while let Some(at) = rest.find(is_name) {
        let from = &rest[at..];
        let end = from.find(|c| !is_name(c)).unwrap_or(from.len());
        let (word, after) = from.split_at(end);
        rest = after;
        if matches!(word, "by" | "on" | "ignoring" | "without") {
            let list = after.trim_start().strip_prefix('(').and_then(|l| l.split(')').next()).unwrap_or("");
            found.grouped.extend(list.split(',').map(|l| l.trim().to_owned()).filter(|l| !l.is_empty()));
        } else if ["restore_", "process_", "rabbitmq_", "up"].iter().any(|prefix| word.starts_with(prefix)) {
            let matchers = after.strip_prefix('{').and_then(|m| m.split('}').next()).unwrap_or("");
            let pair = |part: &str| {
                let (label, value) = part.split_once('=').or_else(|| part.split_once('!'))?;
                let value = value.split('"').nth(1)?;
                Some((label.trim().trim_end_matches('!').to_owned(), value.to_owned()))
            };
            found.metrics.push((word.to_owned(), matchers.split(", ").filter_map(pair).collect()));
            rest = after.strip_prefix('{').map_or(after, |m| m.split_once('}').map_or("", |(_, r)| r));
        } else if let Some(quoted) = after.strip_prefix('"') {
            rest = quoted.split_once('"').map_or("", |(_, r)| r);
        }
    }
    found
}

/// Every text of the sources that stands in quotation marks: where the labels' values are written.
fn quoted_in_sources() -> BTreeSet<String> {
    fn read(dir: &Path, into: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(dir).expect("sources").flatten() {
            let path = entry.path();
            if path.is_dir() {
                read(&path, into);
            } else {
                let text = std::fs::read_to_string(&path).expect("text");
                into.extend(text.lines().flat_map(|l| l.split('"').skip(1).step_by(2)).map(str::to_owned));
            }
        }
    }
    let mut texts = BTreeSet::new();
    read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut texts);
    texts
}

/// What is wrong with a query: unknown metrics, labels that they do not have, values that nobody writes, groups by nothing.
fn complaints(
    place: &str,
    query: &str,
    shown: &[String],
    exposed: &BTreeMap<String, BTreeSet<String>>,
    texts: &BTreeSet<String>,
) -> Vec<String> {
    let named = named(query);
    let mut wrong = Vec::new();
    let mut labels: BTreeSet<&str> = TARGET.into();
    if named.metrics.is_empty() {
        wrong.push(format!("{place}: no metric in {query:?}"));
    }
    for (metric, matchers) in &named.metrics {
        let own: Vec<&str> = match (exposed.get(metric), RABBITMQ.iter().find(|(name, _)| name == metric)) {
            (Some(labels), _) => labels.iter().map(String::as_str).collect(),
            (None, Some((_, labels))) => labels.to_vec(),
            (None, None) => {
                wrong.push(format!("{place}: the worker has no metric {metric}"));
                continue;
            }
        };
        for (label, value) in matchers {
            if TARGET.contains(&label.as_str()) {
                continue;
            }
            if !own.contains(&label.as_str()) {
                wrong.push(format!("{place}: {metric} has no label {label}"));
            }
            let plain = |word: &&str| word.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
            for word in value.split('|').filter(plain).filter(|word| !texts.contains(*word)) {
                wrong.push(format!("{place}: nothing writes {label}={word:?}"));
            }
        }
        labels.extend(own);
    }
    for label in named.grouped.iter().chain(shown) {
        if !labels.contains(label.as_str()) {
            wrong.push(format!("{place}: no metric there has the label {label}"));
        }
    }
    wrong
}

/// The labels that a template shows: `{{name}}` of Grafana, `$labels.name` of Prometheus.
fn shown(template: &str) -> Vec<String> {
    let word = |text: &str| text.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
    if template.contains("$labels.") || template.contains("$value") {
        return template.split("$labels.").skip(1).map(word).collect();
    }
    template.split("{{").skip(1).map(|t| word(t.trim_start())).collect()
}

fn yaml(text: &str) -> Value {
    serde_saphyr::from_str(text).expect("YAML")
}

/// The alerts: name and rule.
pub(crate) fn alerts() -> Vec<(String, Value)> {
    let groups = yaml(ALERTS)["groups"].as_array().expect("groups").clone();
    let rules = groups.iter().flat_map(|group| group["rules"].as_array().expect("rules").clone());
    rules.map(|rule| (rule["alert"].as_str().expect("an alert").to_owned(), rule)).collect()
}

#[test]
fn the_test_takes_queries_apart() {
    let query = r#"sum by (stage, x) (rate(restore_jobs_total{status=~"failed|unknown", reason!="nobody_writes_this"}[5m])) > 1 and on (pod) process_x"#;
    let named = named(query);
    let metrics: Vec<&str> = named.metrics.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(metrics, ["restore_jobs_total", "process_x"]);
    let matchers = [
        ("status".to_owned(), "failed|unknown".to_owned()),
        ("reason".to_owned(), "nobody_writes_this".to_owned()),
    ];
    assert_eq!(named.metrics[0].1, matchers);
    assert_eq!(named.grouped, ["stage", "x", "pod"]);
    let wrong = complaints("here", query, &["y".into()], &exposed(), &quoted_in_sources()).join("\n");
    for expected in [
        "the worker has no metric process_x",
        "nothing writes reason=\"nobody_writes_this\"",
        "the label stage",
        "the label y",
    ] {
        assert!(wrong.contains(expected), "{expected}:\n{wrong}");
    }
}

#[test]
fn every_metric_of_the_source_is_looked_at_here() {
    let source = include_str!("../../src/metrics.rs").split("#[cfg(test)]").next().expect("code");
    let exposed = exposed();
    for name in source.split('"').skip(1).step_by(2).filter(|text| text.starts_with("restore_")) {
        let there = exposed.contains_key(name) || exposed.contains_key(&format!("{name}_bucket"));
        assert!(there, "{name} is missing in exposed()");
    }
}

#[test]
fn alerts_ask_for_what_the_worker_shows() {
    let (exposed, texts) = (exposed(), quoted_in_sources());
    let mut wrong = Vec::new();
    for (name, rule) in alerts() {
        let annotations = rule["annotations"].as_object().expect("annotations");
        let labels: Vec<_> = annotations.values().flat_map(|a| shown(a.as_str().unwrap_or(""))).collect();
        wrong.extend(complaints(&name, rule["expr"].as_str().expect("expr"), &labels, &exposed, &texts));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_dashboard_asks_for_what_the_worker_shows() {
    let (exposed, texts) = (exposed(), quoted_in_sources());
    let dashboard: Value = serde_json::from_str(DASHBOARD).expect("JSON");
    let mut wrong = Vec::new();
    let mut asked = BTreeSet::new();
    for panel in dashboard["panels"].as_array().expect("panels").iter().filter(|p| p["type"] != "row") {
        let title = panel["title"].as_str().expect("a title");
        for target in panel["targets"].as_array().expect("targets") {
            let query = target["expr"].as_str().expect("expr");
            let legend = shown(target["legendFormat"].as_str().unwrap_or(""));
            wrong.extend(complaints(title, query, &legend, &exposed, &texts));
            asked.extend(named(query).metrics.into_iter().map(|(name, _)| name));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let base = |name: &String| {
        name.trim_end_matches("_bucket").trim_end_matches("_sum").trim_end_matches("_count").to_owned()
    };
    let all: BTreeSet<_> = exposed.keys().filter(|name| name.starts_with("restore_")).map(base).collect();
    let asked: BTreeSet<_> = asked.iter().map(base).collect();
    let silent: Vec<_> = all.difference(&asked).collect();
    assert!(silent.is_empty(), "on no panel: {silent:?}");
}

#[test]
fn real_tools_take_every_rendering() {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("the build directory");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for script in ["charts/tools.sh", "charts/check.sh"] {
        let run = Command::new(root.join(script))
            .env("CARGO_TARGET_DIR", target)
            .env("RESTORE_WORKER", binary())
            .output()
            .expect("the script runs");
        let said = [run.stdout, run.stderr].concat();
        assert!(run.status.success(), "{script}:\n{}", String::from_utf8_lossy(&said));
    }
}
