//! Behaviour, as scripts against real servers and the sandbox's strict models.

mod bad_input;
mod blobs;
mod check;
mod dependencies;
mod exchange;
mod house;
mod lanes;
mod restore;
mod seaweedfs;
mod support;
