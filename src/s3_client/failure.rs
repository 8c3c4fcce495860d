//! What went wrong with a request to object storage, as data without the SDK's types.

use std::{error::Error, fmt, time::Duration};

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_s3::{
    config::http::HttpResponse,
    error::{ProvideErrorMetadata, SdkError},
};
use time::{OffsetDateTime, format_description::well_known::Rfc2822};

use crate::domain::{Dependency, Fault, OursScope, Reason, RestoreError};

/// How far the request got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It could not be written down: a bucket name that is none, for instance.
    Unsendable,
    /// The SDK's chain gave no credentials.
    NoCredentials,
    /// No whole answer: connection, TLS, time-out.
    NoAnswer,
    /// An answer that is no success; `status` is there.
    Answer,
}

/// A request that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// How far it got.
    pub kind: Kind,
    /// HTTP status of the answer.
    pub status: Option<u16>,
    /// S3's error code: letters and digits, at most 64.
    pub code: Option<String>,
    /// What the answer asked for.
    pub retry_after: Option<Duration>,
    /// The innermost cause, when there was no answer.
    cause: String,
}

/// Codes that say our keys are refused, whatever was asked for. Not `AuthorizationHeaderMalformed`: that is the answer for
/// a bucket of another region, and a job may name any bucket.
const KEYS_REFUSED: &[&str] = &[
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "ExpiredToken",
    "ExpiredTokenException",
    "InvalidToken",
    "TokenRefreshRequired",
    "RequestTimeTooSkewed",
    "RequestExpired",
    "InvalidSecurity",
    "NotSignedUp",
    "AccountProblem",
    "InvalidClientTokenId",
    "UnrecognizedClientException",
];

impl Failure {
    /// Reads the SDK's error.
    #[must_use]
    pub fn read<E>(error: &SdkError<E>) -> Self
    where
        E: ProvideErrorMetadata + Error + 'static,
    {
        let answer = error.raw_response();
        let code = error.as_service_error().and_then(ProvideErrorMetadata::code).and_then(clean);
        let kind = if has_credentials_error(error) {
            Kind::NoCredentials
        } else if matches!(error, SdkError::ConstructionFailure(_)) {
            Kind::Unsendable
        } else if answer.is_some() {
            Kind::Answer
        } else {
            Kind::NoAnswer
        };
        Self {
            kind,
            status: answer.map(|answer| answer.status().as_u16()),
            code,
            retry_after: answer.and_then(retry_after),
            cause: innermost(error),
        }
    }

    /// Whether the answer says that our keys are refused, or there are none.
    #[must_use]
    pub fn keys_refused(&self) -> bool {
        self.kind == Kind::NoCredentials
            || self.status == Some(401)
            || self.code.as_deref().is_some_and(|code| KEYS_REFUSED.contains(&code))
    }

    /// Whether the storage itself is in trouble and may be well again: no answer, 5xx, 429, 408.
    #[must_use]
    pub fn passes(&self) -> bool {
        match (self.kind, self.status) {
            // A success that cannot be read is no answer either.
            (Kind::NoAnswer, _) | (Kind::Answer, Some(200..300 | 408 | 425 | 429 | 500..)) => true,
            _ => matches!(self.code.as_deref(), Some("RequestTimeout" | "SlowDown" | "InternalError")),
        }
    }

    /// The error for trouble that no single job is to blame for: refused keys are ours, the rest is the neighbour's.
    #[must_use]
    pub fn unavailable(&self, dependency: Dependency) -> RestoreError {
        let fault = if self.keys_refused() {
            Fault::Ours { scope: OursScope::Everything }
        } else {
            Fault::Passing { dependency, retry_after: self.retry_after }
        };
        self.error(fault, Reason::StorageUnavailable, &self.to_string())
    }

    /// An error with this answer's status.
    #[must_use]
    pub fn error(&self, fault: Fault, reason: Reason, message: &str) -> RestoreError {
        let mut error = RestoreError::new(fault, reason, message);
        error.http_status = self.status;
        error
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.kind, self.status, &self.code) {
            (Kind::NoCredentials, ..) => write!(f, "no credentials for the storage: {}", self.cause),
            (_, Some(status), Some(code)) => write!(f, "the storage answered {status} {code}"),
            (_, Some(status), None) => write!(f, "the storage answered {status}"),
            (Kind::Unsendable, ..) => write!(f, "no request can be made: {}", self.cause),
            (Kind::NoAnswer | Kind::Answer, None, _) => {
                write!(f, "the storage gave no answer: {}", self.cause)
            }
        }
    }
}

/// A code as it may be shown: a server can put anything there.
fn clean(code: &str) -> Option<String> {
    let code: String = code.chars().filter(char::is_ascii_alphanumeric).take(64).collect();
    (!code.is_empty()).then_some(code)
}

fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    let mut next = Some(error);
    std::iter::from_fn(move || {
        let cause = next?;
        next = cause.source();
        Some(cause)
    })
}

fn has_credentials_error(error: &(dyn Error + 'static)) -> bool {
    causes(error).any(<dyn Error>::is::<CredentialsError>)
}

fn innermost(error: &(dyn Error + 'static)) -> String {
    causes(error).last().map(ToString::to_string).unwrap_or_default()
}

/// `Retry-After` in seconds, or as a date compared with the same answer's `Date`.
fn retry_after(answer: &HttpResponse) -> Option<Duration> {
    let value = answer.headers().get("retry-after")?.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = |text: &str| OffsetDateTime::parse(text.trim(), &Rfc2822).ok();
    let wait = date(value)? - date(answer.headers().get("date")?)?;
    Some(wait.try_into().unwrap_or(Duration::ZERO))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, code: &str) -> Failure {
        Failure {
            kind: Kind::Answer,
            status: Some(status),
            code: clean(code),
            retry_after: None,
            cause: String::new(),
        }
    }

    #[test]
    fn whose_trouble_an_answer_is() {
        for (status, code, refused, passes) in [
            (403, "AccessDenied", false, false),
            (403, "InvalidAccessKeyId", true, false),
            (403, "SignatureDoesNotMatch", true, false),
            (400, "ExpiredToken", true, false),
            (403, "RequestTimeTooSkewed", true, false),
            (401, "", true, false),
            (400, "AuthorizationHeaderMalformed", false, false),
            (404, "NoSuchKey", false, false),
            (503, "SlowDown", false, true),
            (500, "InternalError", false, true),
            (429, "", false, true),
            (400, "RequestTimeout", false, true),
        ] {
            let failure = answer(status, code);
            assert_eq!((failure.keys_refused(), failure.passes()), (refused, passes), "{status} {code}");
        }
    }

    #[test]
    fn a_hostile_code_is_cut_down() {
        assert_eq!(answer(400, "a b\n<c>").to_string(), "the storage answered 400 abc");
    }

    #[test]
    fn retry_after_in_seconds_and_as_a_date() {
        for (value, seconds) in [
            ("7", Some(7)),
            ("Wed, 21 Oct 2026 07:28:10 GMT", Some(10)),
            ("Wed, 21 Oct 2026 07:00:00 GMT", Some(0)),
            ("soon", None),
        ] {
            let mut answer = HttpResponse::new(
                503_u16.try_into().expect("a status"),
                aws_sdk_s3::primitives::SdkBody::empty(),
            );
            answer.headers_mut().insert("retry-after", value);
            answer.headers_mut().insert("date", "Wed, 21 Oct 2026 07:28:00 GMT");
            assert_eq!(retry_after(&answer), seconds.map(Duration::from_secs), "{value}");
        }
    }
}
