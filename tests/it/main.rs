//! Behaviour, as scripts against real servers and the sandbox's strict models.

mod bad_answers;
mod bad_input;
mod bad_sessions;
mod blobs;
mod check;
mod configuration;
mod crash_loop;
mod delivery;
mod dependencies;
mod events;
mod exchange;
mod failure;
mod fleet;
mod house;
mod identity;
mod lanes;
mod ledger;
mod network;
mod outside;
mod readme;
mod restore;
mod seaweedfs;
mod support;
mod walk;
