//! How effects bend a request's way: what happens before it is judged, and what becomes of its answer.

use std::time::Duration;

use serde_json::{Value, json};

use super::{
    answer::{Answer, pascal},
    fault::{Cut, Effect, UrlTwist, When},
    wire::Line,
};

/// What becomes of a request.
#[derive(Debug)]
pub(super) enum Reply {
    Answer(Answer),
    Half(Answer),
    Huge(Answer, u64),
    Cut(Cut),
    Silence,
    /// The client has gone away; on HTTP/2 its other requests go on.
    Gone,
}

impl From<Answer> for Reply {
    fn from(answer: Answer) -> Self {
        Reply::Answer(answer)
    }
}

/// What effects at the head leave for later.
#[derive(Debug, Default)]
pub(super) struct Head {
    /// The end, before the body is read.
    pub(super) early: Option<Reply>,
    /// The session ends with this status.
    pub(super) end_session: Option<u16>,
    /// The body is cut there.
    pub(super) cut_at: Option<(u64, Cut)>,
    /// Bytes per second.
    pub(super) pace: Option<u64>,
}

/// Meets the effects of the head: waits, and gathers the rest.
pub(super) async fn head(effects: Vec<Effect>) -> Head {
    let mut head = Head::default();
    for effect in effects {
        #[expect(clippy::wildcard_enum_match_arm, reason = "the rest belongs to other stages")]
        match effect {
            Effect::Wait(when) => when.wait().await,
            Effect::Refuse(answer) => first(&mut head.early, answer.into()),
            Effect::CutBeforeBody(cut) => first(&mut head.early, Reply::Cut(cut)),
            Effect::EndSession { status } => head.end_session = Some(status),
            Effect::CutInBody { after, cut } => head.cut_at = Some((after, cut)),
            Effect::SlowBody { bytes_per_second } => head.pace = Some(bytes_per_second),
            _ => {}
        }
    }
    head
}

fn first(place: &mut Option<Reply>, reply: Reply) {
    place.get_or_insert(reply);
}

/// The answer of a script that refuses after the body.
#[expect(clippy::wildcard_enum_match_arm, reason = "one effect is looked for")]
pub(super) fn refusal(effects: Vec<Effect>) -> Option<Answer> {
    effects.into_iter().find_map(|effect| match effect {
        Effect::RefuseAfterBody(answer) => Some(answer),
        _ => None,
    })
}

/// The late commit among effects, if there is one.
#[expect(clippy::wildcard_enum_match_arm, reason = "one effect is looked for")]
pub(super) fn late(effects: &[Effect]) -> Option<(When, super::fault::Meanwhile)> {
    effects.iter().find_map(|effect| match effect {
        Effect::LateCommit { when, meanwhile } => Some((when.clone(), *meanwhile)),
        _ => None,
    })
}

/// Gives away the answer of a request that succeeded, as its effects want.
pub(super) async fn commit(effects: Vec<Effect>, answer: Answer, line: &Line) -> Reply {
    let mut reply = Reply::Answer(answer);
    for effect in effects {
        let Reply::Answer(answer) = reply else { return reply };
        reply = match effect {
            Effect::WaitAfter(when) => {
                when.wait().await;
                answer.into()
            }
            Effect::AnswerInstead(other) => other.into(),
            Effect::CutAfter(cut) => Reply::Cut(cut),
            Effect::Silence => Reply::Silence,
            Effect::HalfAnswer => Reply::Half(answer),
            Effect::HugeAnswer { bytes } => Reply::Huge(answer, bytes),
            Effect::WithoutItemId => answer.change(|body| remove(body, "itemId")).into(),
            Effect::PascalCase => answer.change(pascal).into(),
            Effect::NotJson => answer.body("<html><body>The service is well.</body></html>").into(),
            Effect::CutNextRequest(cut) => {
                line.set_trap(cut);
                answer.into()
            }
            Effect::Expiration(Some(text)) => {
                answer.change(|body| body["expirationDateTime"] = json!(text)).into()
            }
            Effect::Expiration(None) => answer.change(|body| remove(body, "expirationDateTime")).into(),
            Effect::ImportUrl(twist) => answer.change(|body| bend(body, &twist)).into(),
            Effect::Wait(_)
            | Effect::Refuse(_)
            | Effect::CutBeforeBody(_)
            | Effect::CutInBody { .. }
            | Effect::SlowBody { .. }
            | Effect::EndSession { .. }
            | Effect::RefuseAfterBody(_)
            | Effect::LateCommit { .. } => answer.into(),
        };
    }
    reply
}

fn remove(body: &mut Value, key: &str) {
    if let Value::Object(fields) = body {
        fields.remove(key);
    }
}

fn bend(body: &mut Value, twist: &UrlTwist) {
    let url = body["importUrl"].as_str().unwrap_or_default();
    let rest = url.strip_prefix("https://").unwrap_or(url);
    let path = rest.find('/').and_then(|at| rest.get(at..)).unwrap_or_default();
    body["importUrl"] = json!(match twist {
        UrlTwist::Host(host) => format!("https://{host}{path}"),
        UrlTwist::Http => format!("http://{rest}"),
        UrlTwist::Exact(url) => url.clone(),
    });
}

/// How long `bytes` take at a pace.
pub(super) fn time_for(bytes: usize, bytes_per_second: u64) -> Duration {
    let nanos = (bytes as u64).saturating_mul(1_000_000_000) / bytes_per_second.max(1);
    Duration::from_nanos(nanos)
}
