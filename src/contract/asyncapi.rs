//! The contract as an AsyncAPI 3 document: exchange, queues, messages, headers, and the shard function with test vectors.

use serde_json::{Value, json};

use super::{
    names::{APP_ID, JOB_TYPE, MAX_JOB, Names, RESULT_TYPE, header},
    schema,
};
use crate::domain::{MailboxId, ShardCount};

/// Mailboxes of the test vectors.
const VECTORS: [&str; 3] = [
    "MBX:e0643f21@a7809c93",
    "MBX:e0643f21-0000-4000-8000-000000000003@a7809c93-0000-4000-8000-000000000001",
    "m",
];

/// The document.
#[must_use]
pub fn document(names: &Names, version: &str, shards: ShardCount) -> Value {
    json!({
        "asyncapi": "3.0.0",
        "info": {
            "title": "restore-worker",
            "version": version,
            "license": {"name": "Apache-2.0"},
            "description": "Restore jobs in, one result event for each end of a job out; events come at least once. Of several rounds (`replay`) the highest counts, of one round's events the latest `completedAt`. Consumers must tolerate fields, statuses and codes that later versions add.",
        },
        "defaultContentType": "application/json",
        "channels": {
            "jobs": queue(names.jobs(), names.exchange(), "Work. Publish mandatory and confirmed, here or through the default exchange.", "job"),
            "results": queue(&names.results(), names.exchange(), "How jobs ended, unless the job names a `reply-to` of its own (as `submit` does: a queue <prefix>.replies.<id>).", "result"),
            "deadLetters": queue(names.dead_letters(), names.exchange(), "Jobs that ended as failed or unknown, bodies untouched.", "deadLetter"),
            "shards": shards_channel(names, shards),
        },
        "operations": {
            "takeJobs": operation("receive", "jobs"),
            "takeSharded": operation("receive", "shards"),
            "tellResults": operation("send", "results"),
            "keepDeadLetters": operation("send", "deadLetters"),
        },
        "components": {
            "messages": {"job": job(), "result": result(), "deadLetter": dead_letter()},
            "schemas": {"job": schema::job(), "result": schema::result()},
        },
    })
}

fn queue(name: &str, exchange: &str, description: &str, message: &str) -> Value {
    json!({
        "address": name,
        "description": description,
        "messages": {message: {"$ref": format!("#/components/messages/{message}")}},
        "bindings": {"amqp": {
            "is": "routingKey",
            "exchange": {"name": exchange, "type": "direct", "durable": true, "autoDelete": false},
            "queue": {"name": name, "durable": true, "exclusive": false, "autoDelete": false},
            "bindingVersion": "0.3.0",
        }},
    })
}

fn shards_channel(names: &Names, count: ShardCount) -> Value {
    let vectors: Vec<_> = VECTORS
        .iter()
        .filter_map(|id| MailboxId::parse(id).ok())
        .map(|id| json!({"mailboxId": id.as_str(), "shards": count.get(), "shard": count.shard_of(&id).number()}))
        .collect();
    json!({
        "address": "{shard}",
        "description": "For emitters that know the shard function and save the intake's hop; others publish to the jobs. The shard of a mailbox is the first eight bytes (big endian) of the SHA-256 of its mailboxId (UTF-8), modulo the number of shards; it is the routing key. Only in a sharded fleet.",
        "parameters": {"shard": {"description": format!("0 to {}", count.get() - 1)}},
        "messages": {"job": {"$ref": "#/components/messages/job"}},
        "bindings": {"amqp": {
            "is": "routingKey",
            "exchange": {"name": names.shards_exchange(count), "type": "direct", "durable": true, "autoDelete": false},
            "bindingVersion": "0.3.0",
        }},
        "x-shard-test-vectors": vectors,
    })
}

fn operation(action: &str, channel: &str) -> Value {
    json!({"action": action, "channel": {"$ref": format!("#/channels/{channel}")}})
}

fn job() -> Value {
    json!({
        "name": JOB_TYPE,
        "title": "A restore job",
        "contentType": "application/json",
        "description": format!("At most {MAX_JOB} bytes. AMQP type absent or {JOB_TYPE}. Also as a CloudEvent, structured (application/cloudevents+json) or binary. Properties read: message-id, correlation-id (echoed), reply-to (a queue name), user-id, priority. Further headers that begin with restore- are the workers' own."),
        "headers": headers(&[
            (header::TRACE[0], "string", "W3C trace context."),
            (header::TRACE[1], "string", "W3C trace context."),
        ]),
        "correlationId": {"location": "$message.header#/correlation-id"},
        "payload": {"$ref": "#/components/schemas/job"},
    })
}

fn result() -> Value {
    json!({
        "name": RESULT_TYPE,
        "title": "How a job ended",
        "contentType": "application/json",
        "description": format!("Persistent. AMQP type {RESULT_TYPE}, app-id {APP_ID}, message-id <jobId>/<replay>/<status> (of a message that is no job, /<16 hex of its body's SHA-256> behind): drop repeats by it. correlation-id as in the job; else its message-id, else the jobId."),
        "headers": headers(&[
            (header::TRACE[0], "string", "W3C trace context."),
            (header::TRACE[1], "string", "W3C trace context."),
            ("cloudEvents_specversion", "string", "1.0"),
            ("cloudEvents_type", "string", RESULT_TYPE),
            ("cloudEvents_source", "string", "The worker."),
            ("cloudEvents_id", "string", "As message-id."),
            ("cloudEvents_subject", "string", "The job's mailboxId."),
            ("cloudEvents_time", "string", "As completedAt."),
            (header::UNROUTABLE_REPLY_TO, "string", "The job's own reply-to, where it could not be used."),
        ]),
        "correlationId": {"location": "$message.header#/correlation-id"},
        "payload": {"$ref": "#/components/schemas/result"},
    })
}

fn dead_letter() -> Value {
    json!({
        "name": "dead letter",
        "title": "A job that ended as failed or unknown",
        "description": "The job's message, body untouched; it need not be JSON.",
        "headers": headers(&[
            (header::REASON, "string", "Reason code, as in the event's error.code."),
            (header::DETAIL, "string", "What a person should read beside it."),
            (header::REPLAY, "integer", "Round of replay."),
            (header::ATTEMPT, "integer", "Attempts spent."),
            (header::PARKED, "integer", "Milliseconds spent parked."),
            (header::FIRST_RECEIVED, "integer", "When a worker first received the job, in whatever round (unix ms)."),
            (header::REPLAYED_AT, "integer", "When it was last sent back (unix ms)."),
            (header::SUBMITTED_BY, "string", "AMQP user-id of the emitter."),
            (header::CLAIM, "string", "The claim id of the unknown record behind it."),
            (header::FORCE, "string", "The claim id against which its round allowed one new import."),
            (header::IMPORTED, "string", "itemId,changeKey of an import that only its record misses."),
        ]),
        "payload": {},
    })
}

fn headers(fields: &[(&str, &str, &str)]) -> Value {
    let properties: serde_json::Map<_, _> = fields
        .iter()
        .map(|(name, kind, what)| ((*name).to_owned(), json!({"type": kind, "description": what})))
        .collect();
    json!({"type": "object", "properties": properties})
}
