//! JSON Schemas (2020-12) of job and result, generated from the very types that parse and render them.

use schemars::generate::SchemaSettings;
use serde_json::{Value, json};

use super::{event::WireEvent, job::WireJob};

/// Of a job. What it cannot say, the parser checks: lengths in bytes, the size of `metadata`, sums that overflow.
#[must_use]
pub fn job() -> Value {
    let schema = settings().into_generator().into_root_schema_for::<WireJob<'static>>();
    with_id(schema.to_value(), "urn:restore-worker:job:v1")
}

/// Of a result event. Open: consumers must tolerate fields, statuses and codes of later versions.
#[must_use]
pub fn result() -> Value {
    let schema = settings().for_serialize().into_generator().into_root_schema_for::<WireEvent<'static>>();
    with_id(schema.to_value(), "urn:restore-worker:result:v1")
}

/// Everything in one place, so that a schema can be put into another document.
fn settings() -> SchemaSettings {
    SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true)
}

fn with_id(mut schema: Value, id: &str) -> Value {
    schema["$id"] = json!(id);
    schema
}
