//! Puts Exchange mailbox items back.

pub mod domain;
pub mod exchange;
pub mod metrics;
pub mod secret;
