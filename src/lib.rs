//! Puts Exchange mailbox items back.

pub mod blob_store;
pub mod cli;
pub mod domain;
pub mod fts;
pub mod metrics;
pub mod s3_client;
