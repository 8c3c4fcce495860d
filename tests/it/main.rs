//! Behaviour, as scripts against real servers and the sandbox's strict models.

mod bad_answers;
mod bad_input;
mod blobs;
mod check;
mod configuration;
mod contract;
mod crash_loop;
mod dead_letters;
mod delivery;
mod dependencies;
mod events;
mod exchange;
mod failure;
mod house;
mod identifiers;
mod jobs;
mod lanes;
mod ledger;
mod outside;
mod readme;
mod restore;
mod seaweedfs;
mod submit;
mod support;
mod traces;
mod walk;
