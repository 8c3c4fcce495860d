//! What is known of an exported item's bytes ("FTS"): an outer list of records, `{opcode u32le, length u32le, payload}`,
//! whose transfer buffers, joined, are the `FastTransfer` stream of MS-OXCFXICS 2.2.4.
//!
//! Promises: constant memory whatever the bytes say; no panic on any bytes; lengths read from the stream are counted
//! down, never allocated. Microsoft tells clients not to parse this stream, so only what no known valid stream does is
//! refused ([`Preflight`] in its mode `framing`); everything read from the inner stream is a hint.
//! Must never: read a file, a clock or a network, or know a job.
//!
//! `framing` cuts the outer list, `lexer` the inner stream, `structure` follows its markers, `preflight` judges, `item`
//! tells what `inspect` shows, `base64_text` undoes the stored text form.

pub mod base64_text;
pub mod envelope;
mod finding;
mod framing;
mod identity;
pub mod item;
mod lexer;
mod looks;
mod preflight;
mod structure;
mod tags;
#[cfg(test)]
pub(crate) mod test_writer;
mod value;

pub use finding::{Finding, Findings};
pub use identity::ItemIdentity;
pub use looks::looks_like;
pub use preflight::{Preflight, PreflightMode, Refusal, Report};
