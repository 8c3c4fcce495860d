//! Puts Exchange mailbox items back.

pub mod domain;
pub mod fts;
pub mod metrics;
