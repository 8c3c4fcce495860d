//! `restore-worker` puts Exchange mailbox items back: it takes restore jobs from RabbitMQ, streams FTS blobs from
//! S3-compatible storage, imports them through Microsoft Graph, and tells how each job ended.
//!
//! # Where things are
//!
//! | to change | look in |
//! | --- | --- |
//! | what happens to a job, in order | [`pipeline`] |
//! | what follows from how an attempt ended | [`pipeline::judge`] |
//! | who may work on a mailbox now | [`pipeline::lanes`] |
//! | whose trouble an outage is | [`pipeline::health`], [`pipeline::neighbours`] |
//! | what a record in the ledger allows | [`domain::record`] |
//! | which found item is a job's own | [`domain::doubt`] |
//! | fields of a job or an event, names of queues and headers | [`contract`] |
//! | reason codes | [`domain::reason`] |
//! | connections, queues, confirms, which shards a worker consumes | [`broker`] |
//! | which shard a mailbox belongs to | [`domain::shard`] |
//! | fetching, decoding, verifying a blob | [`blob_store`] |
//! | what an exported item is made of | [`fts`] |
//! | tokens, sessions, the import request, what an answer means | [`exchange`] |
//! | how records are kept | [`ledger`] |
//! | a file of certificates | [`certificates`] |
//! | a configuration key | [`config`], and `config/restore-worker.yaml` |
//! | a metric | [`metrics`] |
//! | health | [`admin`], put together in [`app`] |
//! | a command | [`cli`] |
//! | log lines, spans | [`telemetry`] |
//! | schemas, the AsyncAPI document, rights at the broker | [`contract`] |
//! | signals and draining | [`lifecycle`] |
//!
//! # Invariants
//!
//! A test (`tests/it/house.rs`) reads the `use crate::` lines and holds these:
//!
//! - `domain` does no I/O, reads no clock, knows no HTTP status and no AMQP, and imports nothing of this crate but itself.
//! - Adapters (`broker`, `blob_store`, `exchange`, `ledger`) know neither each other nor the pipeline. Third-party types stay
//!   inside: `lapin` in `broker`, `aws_sdk_s3` in `blob_store`, `ledger` and `s3_client`, `reqwest` in `exchange`.
//! - Adapters move bytes and translate errors. They do not retry, sleep between tries, or count attempts; only `pipeline`
//!   decides. (Keeping a connection, a token or a session alive is an adapter's own life.)
//! - Only `config` reads configuration files and the environment; only `lifecycle` spawns; only `main` chooses an exit code.
//! - `metrics` may be fed by any room and is read by none but `admin` and `check`.

pub mod admin;
pub mod app;
pub mod blob_store;
pub mod broker;
pub mod certificates;
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
