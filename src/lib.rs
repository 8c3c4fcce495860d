//! Puts Exchange mailbox items back.

pub mod domain;
pub mod metrics;
pub mod pipeline;
