//! What is known of a blob once it has passed.

use std::sync::{Arc, OnceLock};

use crate::fts::ItemIdentity;

/// What is known of a blob that has been read to its end and passed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// FTS bytes.
    pub bytes: u64,
    /// Their SHA-256.
    pub sha256: [u8; 32],
    /// By what the item can be told.
    pub identity: ItemIdentity,
    /// Preflight's warnings, one text each.
    pub findings: Vec<String>,
}

/// A cheap handle on a blob's facts, filled when its last chunk is given out (of a retained blob at once).
#[derive(Clone, Debug, Default)]
pub struct BlobFacts {
    facts: Arc<OnceLock<Facts>>,
    search_key: Arc<OnceLock<Vec<u8>>>,
}

impl BlobFacts {
    pub(super) fn of(facts: Facts) -> Self {
        let handle = Self::default();
        handle.fill(facts);
        handle
    }

    /// The facts; `None` while the verdict is open.
    #[must_use]
    pub fn get(&self) -> Option<Facts> {
        self.facts.get().cloned()
    }

    /// The item's search key, as soon as it has passed by; not yet verified.
    #[must_use]
    pub fn search_key_hint(&self) -> Option<Vec<u8>> {
        self.search_key.get().cloned()
    }

    pub(super) fn hint(&self, key: &[u8]) {
        self.search_key.get_or_init(|| key.to_vec());
    }

    pub(super) fn fill(&self, facts: Facts) {
        if let Some(key) = &facts.identity.search_key {
            self.hint(key);
        }
        self.facts.get_or_init(|| facts);
    }
}
