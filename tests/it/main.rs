//! Behaviour, as scripts against real servers and the sandbox's strict models.

mod house;
mod ledger;
mod restore;
mod support;
