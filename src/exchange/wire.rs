//! Decoders of what Graph and the import host send: liberal, bounded, without panics on any bytes.

use std::time::Duration;

use reqwest::header::{HeaderMap, RETRY_AFTER};
use serde_json::{Map, Value};
use time::{
    OffsetDateTime, PrimitiveDateTime,
    format_description::well_known::{Rfc2822, Rfc3339},
    macros::format_description,
};

use crate::domain::{ChangeKey, Imported, ItemId, UnixMillis};

/// Longest text of another's that goes on into a message.
const MAX_TEXT: usize = 400;
/// Longest pause that is believed; beyond it the header is nonsense.
const MAX_PAUSE: Duration = Duration::from_hours(24);

/// Reads a key of an object whatever its case.
pub(super) fn field<'a>(object: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    object.get(name).or_else(|| object.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, v)| v))
}

/// Reads a string of an object whatever its key's case.
pub(super) fn text<'a>(object: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    field(object, name)?.as_str()
}

/// Parses a JSON object; anything else is none.
pub(super) fn object(body: &[u8]) -> Option<Map<String, Value>> {
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    match serde_json::from_slice(body) {
        Ok(Value::Object(object)) => Some(object),
        _ => None,
    }
}

/// The import's success: both keys, in whatever case.
pub(super) fn imported(body: &[u8]) -> Option<Imported> {
    let object = object(body)?;
    let item_id = ItemId::parse(text(&object, "itemId")?).ok()?;
    let change_key = ChangeKey::parse(text(&object, "changeKey")?).ok()?;
    Some(Imported { item_id, change_key })
}

/// What an error body says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Said {
    /// Exchange's code, if there is one.
    pub(super) code: Option<String>,
    /// Its text, cut.
    pub(super) text: String,
    /// Codes of the inner errors.
    pub(super) inner: Vec<String>,
}

impl Said {
    /// Decodes `{"error":{code,message,innerError}}`, `{"Error":…}`, `{"Message":…}`, `{"error":"…"}`, or no JSON.
    pub(super) fn decode(body: &[u8]) -> Self {
        let Some(object) = object(body) else {
            return Self { text: no_json(body), ..Self::default() };
        };
        match field(&object, "error") {
            Some(Value::Object(error)) => Self::of(error),
            Some(Value::String(code)) => Self {
                code: Some(cut(code)),
                text: cut(text(&object, "error_description").unwrap_or_default()),
                inner: Vec::new(),
            },
            _ => Self::of(&object),
        }
    }

    fn of(error: &Map<String, Value>) -> Self {
        let message = match field(error, "message") {
            Some(Value::Object(message)) => text(message, "value"),
            other => other.and_then(Value::as_str),
        };
        Self {
            code: text(error, "code").filter(|code| !code.is_empty()).map(cut),
            text: cut(message.unwrap_or_default()),
            inner: inner_codes(error),
        }
    }

    /// Whether code, inner code or text says `word` (lower case): codes whole, the text anywhere.
    pub(super) fn says(&self, word: &str) -> bool {
        let mut codes = self.code.iter().chain(&self.inner);
        codes.any(|code| code.eq_ignore_ascii_case(word)) || self.text.to_ascii_lowercase().contains(word)
    }

    /// `code: text`, as far as there is anything.
    pub(super) fn sentence(&self) -> String {
        match (&self.code, self.text.as_str()) {
            (Some(code), "") => code.clone(),
            (Some(code), text) => format!("{code}: {text}"),
            (None, text) => text.to_owned(),
        }
    }
}

fn inner_codes(error: &Map<String, Value>) -> Vec<String> {
    let mut codes = Vec::new();
    let mut inner = field(error, "innerError");
    while let Some(Value::Object(object)) = inner
        && codes.len() < 8
    {
        codes.push(cut(text(object, "code").unwrap_or_default()));
        inner = field(object, "innerError");
    }
    codes.retain(|code| !code.is_empty());
    codes
}

/// HTML pages of proxies and the like: only that it is one, unless it is a short plain text.
fn no_json(body: &[u8]) -> String {
    match std::str::from_utf8(body).map(str::trim) {
        Ok("") => "no text".into(),
        Ok(text) if !text.starts_with('<') && !text.starts_with('{') => cut(text),
        _ => "a body that is no JSON".into(),
    }
}

/// Cuts another's text: one line, bounded, and no URL's query (an import URL in it would be a credential).
pub(super) fn cut(text: &str) -> String {
    let mut kept = String::new();
    for word in text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty()) {
        if !kept.is_empty() {
            kept.push(' ');
        }
        if word.to_ascii_lowercase().contains("authtoken") || word.contains("eyJ") {
            kept.push_str("[removed]");
        } else {
            kept.push_str(word);
        }
        if kept.len() > MAX_TEXT {
            let end = (0..=MAX_TEXT).rev().find(|end| kept.is_char_boundary(*end)).unwrap_or(0);
            kept.truncate(end);
            kept.push('…');
            break;
        }
    }
    kept
}

/// What the headers of an answer say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Hints {
    /// `request-id` (or a name that front ends use for it).
    pub(super) request_id: Option<String>,
    /// `Date`.
    pub(super) date: Option<UnixMillis>,
    /// `Retry-After`, seconds or date; else `RateLimit-Reset`.
    pub(super) retry_after: Option<Duration>,
    /// `Rate-Limit-Reason`, `RateLimit-Exceeded` and their like, joined.
    pub(super) limit: String,
    /// `Location`.
    pub(super) location: Option<String>,
}

impl Hints {
    /// Reads the headers; `now` stands in for a missing `Date`.
    pub(super) fn read(headers: &HeaderMap, now: UnixMillis) -> Self {
        let get = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
        let date = get("date").and_then(http_date);
        let limit = ["rate-limit-reason", "ratelimit-exceeded", "ratelimit-reason", "x-ms-throttle-scope"];
        Self {
            request_id: ["request-id", "x-ms-request-id", "client-request-id"]
                .into_iter()
                .find_map(get)
                .filter(|id| !id.is_empty())
                .map(cut),
            date,
            retry_after: headers
                .get(RETRY_AFTER)
                .and_then(|value| value.to_str().ok())
                .and_then(|value| pause(value, date.unwrap_or(now)))
                .or_else(|| {
                    let used_up = get("ratelimit-remaining") == Some("0");
                    get("ratelimit-reset").filter(|_| used_up).and_then(|value| pause(value, now))
                }),
            limit: limit.into_iter().filter_map(get).map(cut).collect::<Vec<_>>().join(" "),
            location: get("location").map(str::to_owned),
        }
    }
}

/// `Retry-After`: seconds (a fraction is rounded up) or an HTTP date.
pub(super) fn pause(value: &str, now: UnixMillis) -> Option<Duration> {
    let value = value.trim();
    let pause = match value.parse::<f64>() {
        Ok(seconds) => Duration::try_from_secs_f64(seconds.ceil()).ok()?,
        Err(_) => http_date(value)?.since(now),
    };
    (pause <= MAX_PAUSE).then_some(pause)
}

/// The date form of HTTP headers.
pub(super) fn http_date(value: &str) -> Option<UnixMillis> {
    let imf = value.strip_suffix("GMT").map(|front| format!("{front}+0000"));
    let moment = OffsetDateTime::parse(imf.as_deref().unwrap_or(value), &Rfc2822).ok()?;
    Some(millis(moment))
}

/// A moment as Graph writes it: up to nine fractional digits (seven are usual), `Z`, an offset, or no zone at all (UTC).
pub(super) fn moment(value: &str) -> Option<UnixMillis> {
    if let Ok(moment) = OffsetDateTime::parse(value, &Rfc3339) {
        return Some(millis(moment));
    }
    let bare = value.split('.').next()?;
    let format = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]");
    PrimitiveDateTime::parse(bare, format).ok().map(|moment| millis(moment.assume_utc()))
}

/// The way Graph's `$filter` takes a moment: whole seconds, cut, never rounded up.
pub(super) fn filter_moment(moment: UnixMillis) -> Option<String> {
    let moment = OffsetDateTime::from_unix_timestamp(moment.0.div_euclid(1_000)).ok()?;
    moment.format(format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z")).ok()
}

fn millis(moment: OffsetDateTime) -> UnixMillis {
    UnixMillis(i64::try_from(moment.unix_timestamp_nanos() / 1_000_000).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use reqwest::header::HeaderValue;

    use super::*;

    #[test]
    fn error_bodies_of_every_shape() {
        for (body, code, text) in [
            (r#"{"error":{"code":"C","message":"m","innerError":{"code":"I"}}}"#, Some("C"), "m"),
            (r#"{"Error":{"Code":"C","Message":"m"}}"#, Some("C"), "m"),
            (r#"{"error":{"message":{"value":"m"}}}"#, None, "m"),
            (r#"{"Message":"m"}"#, None, "m"),
            (r#"{"error":"C","error_description":"m"}"#, Some("C"), "m"),
            ("\u{feff}{\"Message\":\"m\"}", None, "m"),
            ("plain words", None, "plain words"),
            ("<html><b>502</b></html>", None, "a body that is no JSON"),
            ("{\"error\":{\"code\":\"C", None, "a body that is no JSON"),
            ("", None, "no text"),
        ] {
            let said = Said::decode(body.as_bytes());
            assert_eq!((said.code.as_deref(), said.text.as_str()), (code, text), "{body}");
        }
        let inner = Said::decode(br#"{"error":{"code":"C","message":"m","innerError":{"code":"Inner"}}}"#);
        assert!(inner.says("inner") && !inner.says("other"));
    }

    #[test]
    fn success_in_any_case_and_nothing_less() {
        for (body, well) in [
            (r#"{"itemId":"I","changeKey":"C"}"#, true),
            (r#"{"ItemId":"I","ChangeKey":"C","@odata.context":"x"}"#, true),
            (r#"{"itemId":"I"}"#, false),
            (r#"{"itemId":"","changeKey":"C"}"#, false),
            (r#"{"itemId":1,"changeKey":"C"}"#, false),
            (r#"[{"itemId":"I","changeKey":"C"}]"#, false),
            (r#"{"itemId":"I","changeKey":"C""#, false),
            ("", false),
        ] {
            assert_eq!(imported(body.as_bytes()).is_some(), well, "{body}");
        }
    }

    #[test]
    fn pauses_as_seconds_and_as_date() {
        let now = http_date("Wed, 21 Oct 2026 07:28:00 GMT").expect("a date");
        for (value, seconds) in [
            ("30", Some(30)),
            ("0", Some(0)),
            (" 1.5 ", Some(2)),
            ("Wed, 21 Oct 2026 07:29:00 GMT", Some(60)),
            ("Wed, 21 Oct 2026 07:27:00 GMT", Some(0)),
            ("-1", None),
            ("1e300", None),
            ("NaN", None),
            ("9999999", None),
            ("soon", None),
        ] {
            assert_eq!(pause(value, now).map(|pause| pause.as_secs()), seconds, "{value}");
        }
    }

    #[test]
    fn moments_of_any_precision() {
        let second = UnixMillis(1_729_191_588_000);
        for (text, expected) in [
            ("2024-10-17T18:59:48Z", Some(second)),
            ("2024-10-17T18:59:48.1052906Z", Some(UnixMillis(second.0 + 105))),
            ("2024-10-17T20:59:48+02:00", Some(second)),
            ("2024-10-17T18:59:48", Some(second)),
            ("2024-10-17T18:59:48.1052906", Some(second)),
            ("yesterday", None),
            ("", None),
        ] {
            assert_eq!(moment(text), expected, "{text}");
        }
        assert_eq!(filter_moment(UnixMillis(second.0 + 999)).as_deref(), Some("2024-10-17T18:59:48Z"));
    }

    #[test]
    fn headers_are_read() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("request-id", "r"),
            ("date", "Wed, 21 Oct 2026 07:28:00 GMT"),
            ("ratelimit-remaining", "0"),
            ("ratelimit-reset", "17"),
            ("rate-limit-reason", "IncomingBytes"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        let hints = Hints::read(&headers, UnixMillis(0));
        assert_eq!((hints.request_id.as_deref(), hints.limit.as_str()), (Some("r"), "IncomingBytes"));
        assert_eq!(hints.retry_after, Some(Duration::from_secs(17)));
        assert!(hints.date.is_some());
    }

    #[test]
    fn anothers_text_carries_no_token() {
        let cut_text = cut("see https://x/importItem?authtoken=eyJabc and\neyJdef.ghi now");
        assert_eq!(cut_text, "see [removed] and [removed] now");
        assert!(cut(&"ä ".repeat(5_000)).len() < 420);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(body in proptest::collection::vec(any::<u8>(), 0..300), text in ".{0,600}") {
            let _decoded = (Said::decode(&body), imported(&body), object(&body));
            let _text = (Said::decode(text.as_bytes()), moment(&text), http_date(&text), pause(&text, UnixMillis(0)));
            prop_assert!(cut(&text).len() < 420);
        }

        #[test]
        fn no_moment_panics(moment in any::<i64>()) {
            let _text = filter_moment(UnixMillis(moment));
        }
    }
}
