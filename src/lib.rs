//! Puts Exchange mailbox items back.

pub mod admin;
pub mod broker;
pub mod contract;
pub mod domain;
pub mod lifecycle;
pub mod metrics;
pub mod pipeline;
pub mod secret;
pub mod telemetry;
