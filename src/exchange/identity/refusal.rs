//! Why no token was issued: ours, the tenant's, or passing.

use std::{error::Error as _, time::Duration};

use azure_core::{Error, error::ErrorKind, http::headers::HeaderName};

use crate::{
    domain::{Dependency, Fault, OursScope, Reason, RestoreError},
    exchange::{clock::own_clock, wire},
};

/// AADSTS codes that say: this tenant does not know us, or has not allowed us.
///
/// 700016 application not found in the directory · 65001 no consent · 90002 tenant not found · 7000229 no service
/// principal in the tenant · 500011 resource unknown there · 7000112 application disabled (guess: by the tenant) ·
/// 900023 no such tenant name · 500014 service principal disabled · 53003 conditional access (guess) · 650051, 650052,
/// 650057 resource not allowed.
const TENANT: &[u32] = &[
    700_016, 65_001, 90_002, 7_000_229, 500_011, 7_000_112, 900_023, 500_014, 53_003, 650_051, 650_052,
    650_057,
];

/// AADSTS codes that say: our own secret, certificate, assertion or application is wrong.
///
/// 7000215 wrong secret · 7000222 secret expired · 700027 certificate not registered or signature wrong · 7000218, 7000216
/// no secret sent · 700024 assertion not valid now · 70021, 700211, 700212, 700213 federated token does not match · 50012
/// authentication failed · 700021, 700023, 700030 assertion wrong · 7000214, 7000232 · 50027 invalid token.
const OURS: &[u32] = &[
    7_000_215, 7_000_222, 700_027, 7_000_218, 7_000_216, 700_024, 70_021, 700_211, 700_212, 700_213, 50_012,
    700_021, 700_023, 700_030, 7_000_214, 7_000_232, 50_027,
];

/// AADSTS codes that pass: 90033 a transient fault, 90006 and 90013 server errors, 50196 too many requests in a loop,
/// 90055 too many requests.
const PASSING: &[u32] = &[90_033, 90_006, 90_013, 50_196, 90_055];

/// What a sign-in host answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Refusal {
    /// HTTP status; none if there was no answer.
    pub(super) status: Option<u16>,
    /// AADSTS codes.
    pub(super) codes: Vec<u32>,
    /// What a person should read.
    pub(super) text: String,
    /// `Retry-After`.
    pub(super) retry_after: Option<Duration>,
    /// A file or a value of our own could not be used: nobody was asked.
    pub(super) unasked: bool,
}

impl Refusal {
    /// Reads the SDK's error; its chain holds the answer.
    pub(super) fn read(error: &Error) -> Self {
        let mut innermost = error;
        while let Some(inner) = innermost.source().and_then(|source| source.downcast_ref::<Error>()) {
            innermost = inner;
        }
        let text = wire::cut(&innermost.to_string());
        let ErrorKind::HttpResponse { status, error_code, raw_response } = innermost.kind() else {
            let unasked = matches!(innermost.kind(), ErrorKind::Credential);
            return Self { codes: codes(None, &text), text, unasked, ..Self::default() };
        };
        let retry_after = raw_response.as_ref().and_then(|answer| {
            let value = answer.headers().get_optional_string(&HeaderName::from_static("retry-after"))?;
            wire::pause(&value, own_clock())
        });
        let status = Some(u16::from(*status));
        Self { status, codes: codes(error_code.as_deref(), &text), text, retry_after, unasked: false }
    }

    /// Whose trouble it is; `home`: the configured tenant was asked.
    pub(super) fn judge(self, home: bool) -> RestoreError {
        let (fault, reason) = self.fault(home);
        let code = self.codes.first().map(|code| format!("AADSTS{code}"));
        RestoreError {
            http_status: self.status,
            graph_code: code,
            ..RestoreError::new(fault, reason, format!("no token was issued: {}", self.text))
        }
    }

    fn fault(&self, home: bool) -> (Fault, Reason) {
        let any = |list: &[u32]| self.codes.iter().any(|code| list.contains(code));
        let ours = (Fault::Ours { scope: OursScope::Everything }, Reason::IdentityRejected);
        let tenants = (Fault::Ours { scope: OursScope::Tenant }, Reason::TenantNotAuthorized);
        let passing = Fault::Passing { dependency: Dependency::Identity, retry_after: self.retry_after };
        let passing = (passing, Reason::ExchangeUnavailable);
        match self.status {
            _ if any(PASSING) => passing,
            _ if any(TENANT) => tenants,
            _ if any(OURS) || self.unasked => ours,
            // 407: a proxy that wants a password (guess).
            None | Some(407 | 408 | 425 | 429 | 500..) => passing,
            // An unknown refusal (guess): of the configured tenant it is ours, of another one it is that tenant's.
            Some(400..500) if home => ours,
            Some(400..500) => tenants,
            Some(_) => passing,
        }
    }
}

/// The codes of `error_codes`, else those that the text names.
fn codes(listed: Option<&str>, text: &str) -> Vec<u32> {
    let listed: Vec<u32> =
        listed.into_iter().flat_map(|list| list.split(',')).filter_map(|c| c.parse().ok()).collect();
    if !listed.is_empty() {
        return listed;
    }
    let number = |rest: &str| {
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        rest[..end].parse().ok()
    };
    text.split("AADSTS").skip(1).filter_map(number).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(status: Option<u16>, code: Option<u32>) -> Refusal {
        Refusal { status, codes: code.into_iter().collect(), ..Refusal::default() }
    }

    #[test]
    fn whose_trouble_a_refusal_is() {
        let everything = Fault::Ours { scope: OursScope::Everything };
        let tenant = Fault::Ours { scope: OursScope::Tenant };
        let passing = Fault::Passing { dependency: Dependency::Identity, retry_after: None };
        for (status, code, home, fault) in [
            (Some(401), Some(7_000_215), false, everything),
            (Some(401), Some(7_000_222), true, everything),
            (Some(401), Some(700_027), true, everything),
            (Some(400), Some(700_016), true, tenant),
            (Some(400), Some(65_001), false, tenant),
            (Some(400), Some(90_002), false, tenant),
            (Some(401), Some(7_000_229), true, tenant),
            (Some(400), None, true, everything),
            (Some(400), Some(1), false, tenant),
            (Some(400), Some(90_033), true, passing),
            (Some(503), None, true, passing),
            (Some(429), None, true, passing),
            (Some(302), None, true, passing),
            (None, None, true, passing),
        ] {
            assert_eq!(refusal(status, code).fault(home).0, fault, "{status:?} {code:?} home {home}");
        }
    }

    #[test]
    fn codes_are_found_in_list_or_text() {
        assert_eq!(codes(Some("7000215,1"), "AADSTS2"), [7_000_215, 1]);
        assert_eq!(codes(None, "AADSTS700016: Application … AADSTS"), [700_016]);
    }
}
