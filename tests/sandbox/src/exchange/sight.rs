//! Somebody who sees the moments of an import that no answer shows.

/// A moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// A session was opened; the answer has not left yet.
    SessionOpened,
    /// Some of an import's body has come, but not all.
    Receiving,
    /// An item was stored; the answer has not left yet.
    Stored,
    /// An item was stored though its client had been left alone before.
    StoredLate,
}

/// A moment and whose it is.
#[derive(Clone, Copy, Debug)]
pub struct Sight<'a> {
    /// What happened.
    pub moment: Moment,
    /// The application that asked.
    pub client_id: &'a str,
    /// The mailbox it asked for.
    pub mailbox: &'a str,
    /// The item that was stored.
    pub item_id: Option<&'a str>,
    /// `PidTagSearchKey` of that item.
    pub search_key: Option<&'a [u8]>,
}

/// Sees moments. Called on the model's own tasks, perhaps under its lock: must neither wait nor ask the model anything.
pub trait Watch: Send + Sync {
    /// It happens now.
    fn saw(&self, sight: &Sight<'_>);
}
