//! Puts Exchange mailbox items back.

pub mod admin;
pub mod app;
pub mod blob_store;
pub mod broker;
pub mod cli;
pub mod config;
pub mod contract;
pub mod domain;
pub mod exchange;
pub mod fts;
pub mod ledger;
pub mod lifecycle;
pub mod metrics;
pub mod pipeline;
pub mod s3_client;
pub mod secret;
pub mod telemetry;
