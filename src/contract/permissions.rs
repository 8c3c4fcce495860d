//! What each kind of user may do at the broker, at the least: RabbitMQ's three patterns, over the names of queues and exchanges.

use serde::Serialize;

use super::names::Names;

/// RabbitMQ's patterns of one user in one vhost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Patterns {
    /// Declare and delete.
    pub configure: String,
    /// Publish to an exchange; bind a queue.
    pub write: String,
    /// Consume from a queue; bind to an exchange.
    pub read: String,
}

/// The patterns of every kind of user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Permissions {
    /// Publishes jobs, reads results; `submit`, with its own reply queues.
    pub emitter: Patterns,
    /// A worker whose queues are declared by other means (`broker.topology: passive`).
    pub worker: Patterns,
    /// A worker that declares what is missing (`broker.topology: declare`).
    pub declaring_worker: Patterns,
    /// `dead-letters` and `jobs`.
    pub operator: Patterns,
}

/// RabbitMQ asks for the default exchange, through which a job's own `reply-to` is reached, under this name.
const DEFAULT_EXCHANGE: &str = "amq.default";

/// The least rights. `results`: the exchange that events go to.
#[must_use]
pub fn least(names: &Names, results: &str) -> Permissions {
    let results = if results.is_empty() { DEFAULT_EXCHANGE } else { results };
    let (exchange, jobs, letters) =
        (plain(names.exchange()), plain(names.jobs()), plain(names.dead_letters()));
    let (given_up, result_queue) = (plain(&names.given_up()), plain(&names.results()));
    let below = |word: &str| format!("{exchange}\\.{word}\\..+");
    let (echo, shards, replies) = (below("echo"), below("shards"), below("replies"));
    // What `fleet.mode: auto` is tried on, whoever declares the rest.
    let probe = below("shards\\.probe");
    let shard_exchanges = format!("{exchange}\\.shards\\.[0-9]+");
    let waits = format!("{jobs}\\.wait\\..+");
    let default = plain(DEFAULT_EXCHANGE);
    let results = plain(results);
    let patterns = |configure: &[&String], write: &[&String], read: &[&String]| Patterns {
        configure: any(configure),
        write: any(write),
        read: any(read),
    };
    Permissions {
        emitter: patterns(&[&replies], &[&exchange, &shard_exchanges], &[&result_queue, &replies]),
        worker: patterns(
            &[&echo, &probe],
            &[&exchange, &shard_exchanges, &results, &default, &echo, &probe],
            &[&exchange, &jobs, &given_up, &shards, &echo],
        ),
        declaring_worker: patterns(
            &[&exchange, &jobs, &waits, &given_up, &result_queue, &letters, &shards, &echo],
            &[
                &exchange,
                &results,
                &default,
                &jobs,
                &waits,
                &given_up,
                &result_queue,
                &letters,
                &shards,
                &echo,
            ],
            &[&exchange, &shard_exchanges, &jobs, &waits, &given_up, &shards, &echo],
        ),
        operator: patterns(&[], &[&exchange, &results, &default], &[&letters]),
    }
}

/// A pattern for any of these; for none of them one that nothing matches.
fn any(patterns: &[&String]) -> String {
    let mut seen: Vec<&str> = Vec::new();
    for pattern in patterns {
        if !seen.contains(&pattern.as_str()) {
            seen.push(pattern);
        }
    }
    format!("^({})$", seen.join("|")).replace("^()$", "^$")
}

/// A name as a pattern that matches it alone.
fn plain(name: &str) -> String {
    let mut pattern = String::with_capacity(name.len());
    for c in name.chars() {
        if c.is_ascii_punctuation() && !matches!(c, '-' | '_' | '/' | ':' | '@') {
            pattern.push('\\');
        }
        pattern.push(c);
    }
    pattern
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_gets_more_than_is_needed() {
        let permissions = least(&Names::new("restore", None, None), "restore");
        assert_eq!(permissions.emitter.read, r"^(restore\.results|restore\.replies\..+)$");
        assert_eq!(permissions.emitter.write, r"^(restore|restore\.shards\.[0-9]+)$");
        assert_eq!(permissions.worker.configure, r"^(restore\.echo\..+|restore\.shards\.probe\..+)$");
        assert_eq!(
            permissions.worker.write,
            r"^(restore|restore\.shards\.[0-9]+|amq\.default|restore\.echo\..+|restore\.shards\.probe\..+)$"
        );
        assert_eq!(
            (&*permissions.operator.configure, &*permissions.operator.read),
            ("^$", r"^(restore\.dead-letters)$")
        );
    }

    #[test]
    fn a_name_matches_itself_alone() {
        assert_eq!(plain("a.b+c-d"), r"a\.b\+c-d");
    }
}
