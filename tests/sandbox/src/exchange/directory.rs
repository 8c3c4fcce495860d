//! Tenants, applications, what they are allowed, and the tokens that were issued.

use std::collections::{BTreeMap, BTreeSet, HashMap};

/// The role that imports (`MailboxItem.ImportExport.All`).
pub const ROLE_IMPORT: &str = "MailboxItem.ImportExport.All";
/// The role that looks at items (`MailboxItem.Read.All`).
pub const ROLE_READ: &str = "MailboxItem.Read.All";
/// The role that looks at items and deletes them; good for looking, too.
pub const ROLE_READ_WRITE: &str = "MailboxItem.ReadWrite.All";
/// The role that looks at folders (`MailboxFolder.Read.All`).
pub const ROLE_FOLDERS: &str = "MailboxFolder.Read.All";
/// Everything that a worker can use.
pub const ALL_ROLES: [&str; 3] = [ROLE_IMPORT, ROLE_READ, ROLE_FOLDERS];

/// What a tenant thinks of an application.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Consent {
    /// Granted with these application roles; none is possible, and then Graph refuses.
    Granted(Vec<String>),
    /// Withdrawn: AADSTS65001.
    Withdrawn,
    /// The application is known, but has no service principal: AADSTS7000229.
    NoServicePrincipal,
}

/// An application and its credentials.
#[derive(Debug, Default)]
pub(super) struct App {
    /// Secret, and whether it has expired.
    pub(super) secrets: BTreeMap<String, bool>,
    /// `x5t#S256` to the public key (PKCS #1 DER).
    pub(super) certificates: BTreeMap<String, Vec<u8>>,
    pub(super) federated: BTreeSet<String>,
    /// By tenant; a tenant that is not here does not know the application.
    pub(super) consents: BTreeMap<String, Consent>,
    /// Mailboxes reached by RBAC for Applications instead of a role in the token.
    pub(super) rbac: BTreeSet<String>,
    /// Mailboxes that an access policy keeps from it.
    pub(super) denied: BTreeSet<String>,
}

/// An access token that was issued.
#[derive(Clone, Debug)]
pub(super) struct Token {
    pub(super) tenant: String,
    pub(super) client_id: String,
    pub(super) roles: Vec<String>,
    /// Delegated: the user's own mailbox and the scopes.
    pub(super) delegated: Option<(String, Vec<String>)>,
    pub(super) expires_ms: i64,
    pub(super) revoked: bool,
}

/// Entra.
#[derive(Debug, Default)]
pub(super) struct Directory {
    pub(super) tenants: BTreeSet<String>,
    pub(super) apps: BTreeMap<String, App>,
    pub(super) tokens: HashMap<String, Token>,
    /// Tenant and application of this machine's identity.
    pub(super) machine: Option<(String, String)>,
}
