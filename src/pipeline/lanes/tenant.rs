//! One tenant: whose mailbox's turn it is, and the pause that a limit of the whole tenant asks for.

use std::sync::Arc;

use super::{
    fair::{Account, Turns},
    lane,
    tally::Tally,
    window::Millis,
};

/// One tenant.
#[derive(Debug)]
pub struct Tenant {
    /// Its name.
    pub name: Arc<str>,
    /// Lanes that are known.
    pub lanes: u32,
    /// Its account with the worker.
    pub account: Account,
    /// Its lanes that are ready.
    pub turns: Turns,
    /// No job of it goes before.
    pub paused_until: Millis,
    /// Refusals in a row.
    pub refusals: u8,
    /// Its lanes, added up.
    pub tally: Tally,
    /// Its part in the whole tally.
    pub counted: Tally,
}

impl Tenant {
    /// A tenant without lanes.
    #[must_use]
    pub fn new(name: Arc<str>) -> Self {
        Self {
            name,
            lanes: 0,
            account: Account::default(),
            turns: Turns::default(),
            paused_until: Millis(0),
            refusals: 0,
            tally: Tally::default(),
            counted: Tally::default(),
        }
    }

    /// A limit of the whole tenant was named. Returns the end of its pause.
    pub fn throttled(&mut self, now: Millis, retry_after: Option<u64>) -> Millis {
        let known = self.paused_until > now;
        let pause = lane::pause(if known { 0 } else { self.refusals }, retry_after);
        self.paused_until = self.paused_until.max(now.plus(pause));
        if !known {
            self.refusals = self.refusals.saturating_add(1);
        }
        self.paused_until
    }

    /// Its part in the whole tally.
    #[must_use]
    pub fn part(&self, now: Millis) -> Tally {
        if self.paused_until > now { self.tally.frozen() } else { self.tally }
    }
}
