//! The right to work on a mailbox now.

use super::{Lanes, core::Grant};

/// A place in a mailbox's lane. Dropping it frees the place; the request counts as sent, with the size last known, unless
/// [`LanePass::spent`] or [`LanePass::unused`] said otherwise.
#[derive(Debug)]
#[must_use = "dropping a pass frees its place"]
pub struct LanePass {
    lanes: Lanes,
    grant: Option<Grant>,
    received: bool,
}

impl LanePass {
    pub(super) const fn new(lanes: Lanes, grant: Grant) -> Self {
        Self { lanes, grant: Some(grant), received: false }
    }

    /// The one who asked for it has it.
    pub(super) fn received(mut self) -> Self {
        self.received = true;
        self
    }

    /// The request will be of `bytes`: known once the blob is open. Nothing is waited for: it goes, and the lane pays later.
    pub fn adjust(&mut self, bytes: u64) {
        if let Some(grant) = &mut self.grant {
            self.lanes.correct(grant, bytes);
        }
    }

    /// The request is over (answered, refused or lost) and was of `bytes`: what the mailbox has spent runs out a window from
    /// now. The place is kept for what is left to do.
    pub fn spent(&mut self, bytes: u64) {
        if let Some(grant) = &mut self.grant {
            self.lanes.sent(grant, bytes);
        }
    }

    /// No request was sent, nor will be: the mailbox gets its room back.
    pub fn unused(&mut self) {
        if let Some(grant) = &mut self.grant {
            self.lanes.unused(grant);
        }
    }
}

impl Drop for LanePass {
    fn drop(&mut self) {
        if !self.received {
            self.unused();
        }
        if let Some(grant) = self.grant.take() {
            self.lanes.end(grant);
        }
    }
}
