//! Behaviour, as scripts against real servers and the sandbox's strict models.

mod bad_input;
mod house;
mod restore;
mod support;
