//! Puts Exchange mailbox items back.

pub mod contract;
pub mod domain;
pub mod metrics;
