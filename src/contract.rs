//! JSON on the queues: parses a job, renders an event, and holds every name that emitters rely on.
//!
//! Everything that arrives here was written by somebody else: each field is hostile until it is parsed. Nothing that
//! is refused is ever guessed at.

pub mod asyncapi;
pub mod event;
pub mod job;
pub mod names;
pub mod permissions;
pub mod schema;

pub use event::{Rendered, Subject, Worker, event_id, render, rfc3339};
pub use job::{Malformed, Parser, Wrapping};
