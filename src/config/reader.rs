//! Typed reading of keys. Notes every problem instead of stopping at the first.

use std::{fmt::Display, path::PathBuf, str::FromStr, time::Duration};

use secrecy::SecretString;
use serde_json::Value;

use super::layers::{Leaves, Problem, SECRETS, Source, is_known, nearest};
use crate::secret::Secret;

/// Reads keys of the merged layers.
#[derive(Debug)]
pub(super) struct Reader {
    merged: Leaves,
    problems: Vec<Problem>,
}

impl Reader {
    /// Lays `upper` layers over the defaults, the last one on top.
    pub(super) fn new(defaults: &Leaves, upper: Vec<Leaves>) -> Self {
        let mut problems = Vec::new();
        let mut merged = defaults.clone();
        for (key, (value, source)) in upper.into_iter().flatten() {
            if is_known(&key, defaults) {
                merged.insert(key, (value, source));
            } else {
                let what = nearest(&key, defaults)
                    .map_or("unknown key".into(), |n| format!("unknown key; did you mean {n}?"));
                problems.push(Problem { key, source, what });
            }
        }
        Self { merged, problems }
    }

    /// Notes a problem of a key.
    pub(super) fn refuse(&mut self, key: &str, what: impl Display) {
        let source = self.merged.get(key).map_or(Source::Default, |(_, source)| source.clone());
        self.problems.push(Problem { key: key.into(), source, what: what.to_string() });
    }

    /// The merged values, to be shown.
    pub(super) fn merged(&self) -> &Leaves {
        &self.merged
    }

    /// Ends the reading: the value, or everything that is wrong.
    pub(super) fn finish<T>(self, value: T) -> Result<T, Vec<Problem>> {
        if self.problems.is_empty() { Ok(value) } else { Err(self.problems) }
    }

    /// The key's text, if it is set.
    pub(super) fn text(&mut self, key: &str) -> Option<String> {
        let text = match self.merged.get(key).map(|(value, _)| value) {
            None | Some(Value::Null) => return None,
            Some(Value::String(text)) => text.trim().to_owned(),
            Some(Value::Number(number)) => number.to_string(),
            Some(Value::Bool(yes)) => yes.to_string(),
            Some(Value::Array(_) | Value::Object(_)) => {
                self.refuse(key, "must be a single value");
                return None;
            }
        };
        (!text.is_empty()).then_some(text)
    }

    /// Whether the key's value is the compiled-in one.
    pub(super) fn is_default(&self, key: &str) -> bool {
        matches!(self.merged.get(key), None | Some((_, Source::Default)))
    }

    /// A value with a parser of its own; notes a problem and takes the type's default when it does not parse.
    pub(super) fn parsed<T: Default, E: Display>(
        &mut self,
        key: &str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> T {
        self.optional(key, parse).unwrap_or_else(|| {
            if self.text(key).is_none() {
                self.refuse(key, "must be set");
            }
            T::default()
        })
    }

    /// A value that may be unset.
    pub(super) fn optional<T, E: Display>(
        &mut self,
        key: &str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Option<T> {
        let text = self.text(key)?;
        parse(&text).map_err(|error| self.refuse(key, error)).ok()
    }

    /// An integer between `min` and `max`.
    pub(super) fn integer<T>(&mut self, key: &str, min: T, max: T) -> T
    where
        T: FromStr + PartialOrd + Display + Default + Copy,
    {
        self.parsed(key, |text| match text.parse::<T>() {
            Ok(n) if n >= min && n <= max => Ok(n),
            Ok(_) | Err(_) => Err(format!("must be a number between {min} and {max}")),
        })
    }

    /// `true` or `false`.
    pub(super) fn boolean(&mut self, key: &str) -> bool {
        self.parsed(key, |text| text.parse::<bool>().map_err(|_| "must be true or false"))
    }

    /// A duration longer than zero.
    pub(super) fn duration(&mut self, key: &str) -> Duration {
        self.parsed(key, |text| match parse_duration(text) {
            Ok(d) if d.is_zero() => Err("must be longer than zero".to_owned()),
            other => other,
        })
    }

    /// A duration that may be zero.
    pub(super) fn duration_or_zero(&mut self, key: &str) -> Duration {
        self.parsed(key, parse_duration)
    }

    /// A size in bytes, at least 1.
    pub(super) fn bytes(&mut self, key: &str) -> u64 {
        self.parsed(key, |text| match parse_bytes(text) {
            Ok(0) => Err("must be larger than zero".to_owned()),
            other => other,
        })
    }

    /// One of a closed list of words.
    pub(super) fn choice<T: Copy + Default>(&mut self, key: &str, words: &[(&str, T)]) -> T {
        self.parsed(key, |text| {
            let listed = || words.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(", ");
            words
                .iter()
                .find(|(word, _)| *word == text)
                .map(|(_, value)| *value)
                .ok_or_else(|| format!("must be one of {}", listed()))
        })
    }

    /// A list; in the environment with commas.
    pub(super) fn list<T, E: Display>(&mut self, key: &str, parse: impl Fn(&str) -> Result<T, E>) -> Vec<T> {
        let texts: Vec<String> = match self.merged.get(key).map(|(value, _)| value) {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::Array(items)) => items.iter().map(plain_text).collect(),
            Some(value) => plain_text(value)
                .split(',')
                .map(|part| part.trim().to_owned())
                .filter(|p| !p.is_empty())
                .collect(),
        };
        let parsed: Vec<Result<T, String>> =
            texts.iter().map(|text| parse(text).map_err(|error| error.to_string())).collect();
        let mut values = Vec::with_capacity(parsed.len());
        for (result, text) in parsed.into_iter().zip(&texts) {
            match result {
                Ok(value) => values.push(value),
                Err(error) => self.refuse(key, format!("{text:?}: {error}")),
            }
        }
        values
    }

    /// A secret: its own value or its `_file` twin, not both.
    pub(super) fn secret(&mut self, key: &str) -> Option<Secret> {
        debug_assert!(SECRETS.contains(&key), "{key} must be masked");
        let twin = format!("{key}_file");
        let value = self.text(key).filter(|_| !(self.is_default(key) && self.text(&twin).is_some()));
        match (value, self.text(&twin)) {
            (Some(_), Some(_)) => {
                self.refuse(key, format!("{twin} is set, too: choose one"));
                None
            }
            (Some(value), None) => Some(Secret::Value(SecretString::from(value))),
            (None, Some(path)) => Some(Secret::File(PathBuf::from(path))),
            (None, None) => None,
        }
    }

    /// The content of a file that a key names.
    pub(super) fn file(&mut self, key: &str) -> Option<Vec<u8>> {
        let path = self.text(key)?;
        std::fs::read(&path).map_err(|error| self.refuse(key, format!("cannot read {path}: {error}"))).ok()
    }
}

pub(super) fn plain_text(value: &Value) -> String {
    if let Value::String(text) = value { text.clone() } else { value.to_string() }
}

/// `500ms`, `30s`, `5m`, `2h`, `1d`.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let refuse = || "must be a duration such as 500ms, 30s, 5m, 2h or 1d".to_owned();
    let (digits, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).ok_or_else(refuse)?);
    let n: u64 = digits.parse().map_err(|_| refuse())?;
    let millis = match unit.trim() {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(refuse()),
    };
    n.checked_mul(millis).map(Duration::from_millis).ok_or_else(refuse)
}

/// `4096`, `64KiB`, `25MiB`, `2GiB`, `150MB`, `1GB`.
pub(super) fn parse_bytes(text: &str) -> Result<u64, String> {
    let refuse = || "must be a size such as 4096, 64KiB, 25MiB or 150MB".to_owned();
    let (digits, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let n: u64 = digits.parse().map_err(|_| refuse())?;
    let factor = match unit.trim() {
        "" | "B" => 1,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err(refuse()),
    };
    n.checked_mul(factor).ok_or_else(refuse)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes() {
        for (text, expected) in [
            ("500ms", Some(500)),
            ("30s", Some(30_000)),
            ("5m", Some(300_000)),
            ("1d", Some(86_400_000)),
            ("5", None),
            ("s", None),
            ("-1s", None),
            ("1.5h", None),
        ] {
            assert_eq!(parse_duration(text).ok(), expected.map(Duration::from_millis), "{text}");
        }
        for (text, expected) in [
            ("4096", Some(4096)),
            ("64KiB", Some(65_536)),
            ("150MB", Some(150_000_000)),
            ("1 GiB", Some(1 << 30)),
            ("1PB", None),
            ("", None),
        ] {
            assert_eq!(parse_bytes(text).ok(), expected, "{text}");
        }
    }
}
