//! What a token says of itself. Read without checking its signature: for warnings and times, never to decide a right.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::Value;

use crate::domain::UnixMillis;

/// The role that importing needs.
const IMPORT: &str = "MailboxItem.ImportExport.All";
/// Its delegated form, which reaches the signed-in user's own mailbox only.
const IMPORT_DELEGATED: &str = "MailboxItem.ImportExport";
/// The role that looking for items needs.
const READ: [&str; 4] =
    ["MailboxItem.Read.All", "MailboxItem.ReadWrite.All", "MailboxItem.Read", "MailboxItem.ReadWrite"];

/// What is known of a token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenFacts {
    /// Application roles (`roles`). May be empty although access works (RBAC for Applications).
    pub roles: Vec<String>,
    /// Delegated permissions (`scp`).
    pub scp: Vec<String>,
    /// Its end.
    pub expires: UnixMillis,
}

impl TokenFacts {
    /// Reads a JWT's claims; of an opaque token nothing is known. The end is the caller's: the token's own is told by
    /// another clock.
    pub(super) fn read(token: &str, expires: UnixMillis) -> Self {
        let mut facts = Self { expires, ..Self::default() };
        let Some(claims) = claims(token) else { return facts };
        if let Some(roles) = claims.get("roles").and_then(Value::as_array) {
            facts.roles = roles.iter().filter_map(Value::as_str).map(str::to_owned).collect();
        }
        if let Some(scp) = claims.get("scp").and_then(Value::as_str) {
            facts.scp = scp.split_whitespace().map(str::to_owned).collect();
        }
        facts
    }

    /// What a person should know of the token's permissions, if anything: a warning, never a refusal.
    #[must_use]
    pub fn warning(&self) -> Option<String> {
        if self.roles.is_empty() && self.scp.is_empty() {
            return Some(format!(
                "the token names no roles: without RBAC for Applications importing needs {IMPORT}"
            ));
        }
        if !self.has(&[IMPORT, IMPORT_DELEGATED]) {
            return Some(format!("the token does not hold {IMPORT}: imports will probably be refused"));
        }
        if !self.has(&READ) {
            return Some(format!(
                "the token does not hold {}: doubtful imports cannot be looked for",
                READ[0]
            ));
        }
        None
    }

    fn has(&self, any: &[&str]) -> bool {
        self.roles.iter().chain(&self.scp).any(|held| any.contains(&held.as_str()))
    }
}

/// The end that the token tells.
pub(super) fn end(token: &str) -> Option<UnixMillis> {
    let end = claims(token)?.get("exp")?.as_i64()?;
    Some(UnixMillis(end.saturating_mul(1_000)))
}

fn claims(token: &str) -> Option<Value> {
    let payload = token.split('.').nth(1)?;
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload.trim_end_matches('=')).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn token(claims: &str) -> String {
        format!("e30.{}.sig", URL_SAFE_NO_PAD.encode(claims))
    }

    #[test]
    fn roles_scopes_and_end_are_read() {
        for (claims, warns) in [
            (r#"{"roles":["MailboxItem.ImportExport.All","MailboxItem.Read.All"],"exp":10}"#, None),
            (r#"{"scp":"MailboxItem.ImportExport MailboxItem.Read","exp":10}"#, None),
            (r#"{"roles":["MailboxItem.ImportExport.All"],"exp":10}"#, Some("looked for")),
            (r#"{"roles":["Mail.Read"],"exp":10}"#, Some("refused")),
            (r#"{"exp":10}"#, Some("no roles")),
        ] {
            let facts = TokenFacts::read(&token(claims), UnixMillis(1));
            assert_eq!((facts.expires, end(&token(claims))), (UnixMillis(1), Some(UnixMillis(10_000))));
            assert_eq!(facts.warning().is_some(), warns.is_some(), "{claims}");
            assert!(facts.warning().unwrap_or_default().contains(warns.unwrap_or_default()), "{claims}");
        }
        assert_eq!(end("opaque"), None);
    }

    proptest! {
        #[test]
        fn no_token_panics(text in ".{0,200}", bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _one = (TokenFacts::read(&text, UnixMillis(0)), end(&text));
            let _other = TokenFacts::read(&format!("a.{}.b", URL_SAFE_NO_PAD.encode(bytes)), UnixMillis(0));
        }
    }
}
