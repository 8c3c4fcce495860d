//! Where a value comes from: the defaults that are compiled in, a file, the environment. The last one wins.

use std::{collections::BTreeMap, fmt, path::PathBuf};

use serde_json::Value;

/// The defaults: also the documentation of every key.
pub const DEFAULTS: &str = include_str!("../../config/restore-worker.yaml");

/// Prefix of environment variables; `__` nests.
pub const PREFIX: &str = "RESTORE_WORKER__";

/// Keys that hold a secret; each has a `_file` twin.
pub const SECRETS: [&str; 4] =
    ["broker.uri", "broker.password", "identity.client_secret", "identity.certificate_password"];

/// Where a value stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Compiled in.
    Default,
    /// A file.
    File(PathBuf),
    /// An environment variable.
    Environment(String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Environment(name) => f.write_str(name),
        }
    }
}

/// One thing that is wrong, with its key and source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// `section.key`, or the file's name.
    pub key: String,
    /// Where it stands.
    pub source: Source,
    /// What is wrong. Never holds a secret's value.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} ({})", self.key, self.what, self.source)
    }
}

/// Values by dotted key.
pub type Leaves = BTreeMap<String, (Value, Source)>;

/// Flattens a YAML document to dotted keys. An empty value leaves the key unset.
///
/// # Errors
/// When the text is no YAML mapping.
pub fn flatten_yaml(text: &str, source: &Source) -> Result<Leaves, String> {
    let mut leaves = Leaves::new();
    if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
        return Ok(leaves);
    }
    match serde_saphyr::from_str::<Value>(text) {
        Ok(root @ Value::Object(_)) => flatten(&root, String::new(), source, &mut leaves),
        Ok(_) => return Err("must be a mapping of sections".into()),
        // The first line names the place; the rest quotes the file, which may hold a secret.
        Err(error) => return Err(error.to_string().lines().next().unwrap_or("is no YAML").to_owned()),
    }
    Ok(leaves)
}

fn flatten(value: &Value, path: String, source: &Source, into: &mut Leaves) {
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                flatten(value, path, source, into);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            into.insert(path, (value.clone(), source.clone()));
        }
    }
}

/// `RESTORE_WORKER__BROKER__PREFETCH` → `broker.prefetch`.
pub fn flatten_environment(variables: impl IntoIterator<Item = (String, String)>) -> Leaves {
    let leaf = |(name, value): (String, String)| {
        let key = name.strip_prefix(PREFIX)?.to_ascii_lowercase().replace("__", ".");
        Some((key, (Value::String(value), Source::Environment(name))))
    };
    variables.into_iter().filter_map(leaf).collect()
}

/// Whether the key is one of the defaults', or a secret's `_file` twin.
#[must_use]
pub fn is_known(key: &str, defaults: &Leaves) -> bool {
    defaults.contains_key(key) || key.strip_suffix("_file").is_some_and(|twin| SECRETS.contains(&twin))
}

/// The known key that an unknown one most likely meant.
#[must_use]
pub fn nearest<'a>(key: &str, defaults: &'a Leaves) -> Option<&'a str> {
    let best = defaults.keys().min_by_key(|known| distance(key, known))?;
    (distance(key, best) <= 3).then_some(best.as_str())
}

/// Levenshtein's distance.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
