//! Everything the worker talks to, on one machine, without accounts.

pub mod exchange;
