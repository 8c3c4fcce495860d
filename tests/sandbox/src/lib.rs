//! Everything the worker talks to, on one machine, without accounts: a private RabbitMQ, S3 in process and
//! as somebody else wrote it, a strict model of Exchange, and items to put through them.

pub mod authority;
pub mod campaign;
pub mod emitter;
pub mod exchange;
pub mod fts;
pub mod measure;
pub mod otlp;
pub mod proxy;
pub mod rabbitmq;
pub mod s3;
pub mod seaweedfs;
pub mod stack;
pub mod supervised;
pub mod tunnel;
pub mod wait;
pub mod worker;
