//! The words of the program and its pure decisions: what a job is, whose trouble an error is, what the
//! ledger's record may become.
//!
//! Promises: no I/O, no clock, no HTTP status, no AMQP. Everything here takes data (and `now`, and dice)
//! and returns data. Imports nothing of this crate outside itself.

pub mod doubt;
pub mod event;
pub mod fault;
pub mod hex;
pub mod job;
pub mod journey;
pub mod reason;
pub mod record;
pub mod resolution;
pub mod retry;
pub mod shard;
pub mod tenancy;

pub use doubt::{ItemIdentity, SeenItem};
pub use event::{Event, Evidence, Failure, Imported, Outcome, Timings};
pub use fault::{Dependency, Fault, Limit, OursScope, RestoreError, ThrottleScope};
pub use job::{
    BlobRef, ByteRange, ChangeKey, Compression, Encoding, FolderId, GraphVersion, ImportMode, Invalid,
    ItemId, JobId, MailboxId, Metadata, RestoreJob, TenantId, UnixMillis,
};
pub use journey::Journey;
pub use reason::Reason;
pub use shard::{Shard, ShardCount};
