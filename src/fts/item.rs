//! What `inspect` shows of an item (to come).
