//! The import host: takes items at a session's URL.
//!
//! The URL is the credential and is compared byte for byte. Nothing is stored of a body that is not complete.
//! Statuses and codes that no source documents (facts, section 3) follow EWS' meanings.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Method, header};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde_json::json;
use tokio::time::Instant;

use super::{
    answer::Answer,
    fault::{Meanwhile, Operation, Stage, Target},
    flow::{self, Head, Reply},
    sight::{Moment, Sight},
    store::{NewItem, Session, hex},
    text,
    upload::{Reader, Upload, UploadError},
    wire::Line,
    world::{Place, Shared, World},
};

/// The mailbox that an import path names, if it is one.
pub(super) fn mailbox_of(path: &str) -> Option<String> {
    let rest = path.strip_prefix("/api/gv1.0/").or_else(|| path.strip_prefix("/api/gbeta/"))?;
    text::decode(rest.strip_prefix("Mailboxes('")?.strip_suffix("')/importItem")?)
}

/// Answers an import.
pub(super) async fn reply(
    shared: &Arc<Shared>,
    line: &Line,
    mailbox: &str,
    request: hyper::Request<Incoming>,
) -> Reply {
    let (parts, body) = request.into_parts();
    let path_and_query = parts.uri.path_and_query().map_or("", |p| p.as_str()).to_owned();
    let form = check_form(shared, &parts.method, &parts.headers);
    let tenant = shared.world().store.mailboxes.get(mailbox).map(|m| m.tenant.clone());
    let target = Target::in_mailbox(Operation::Import, tenant.as_deref(), mailbox);
    let mut head = flow::head(shared.take(Stage::Head, &target)).await;
    if let Some(status) = head.end_session {
        end_session(shared, &path_and_query);
        drain(shared, None, body);
        return error(shared, status, "ErrorInvalidSession", "The import session has expired.").into();
    }
    if let Some(early) = head.early.take() {
        if matches!(early, Reply::Answer(_)) {
            drain(shared, None, body);
        }
        return early;
    }
    let (session, length, place) = match admit(shared, form, &path_and_query, mailbox) {
        Ok(admitted) => admitted,
        Err((answer, meter)) => {
            drain(shared, meter, body);
            return answer.into();
        }
    };
    receive(shared, line, target, session, (length, place, head), (parts.headers, body)).await
}

/// The session, the body's length and a place; or the refusal, and whose budget the unread body costs.
type Admitted = Result<(Session, u64, Place), (Answer, Option<(String, String)>)>;

fn admit(shared: &Arc<Shared>, form: Result<u64, Answer>, url: &str, mailbox: &str) -> Admitted {
    let session = find_session(shared, url, mailbox).map_err(|answer| (answer, None))?;
    let length = form.map_err(|answer| (answer, None))?;
    if length > shared.options.largest_body {
        let text = "The message exceeds the maximum supported size.";
        return Err((error(shared, 413, "ErrorMessageSizeExceeded", text), None));
    }
    let place = shared
        .enter(&session.client_id, &session.mailbox, length)
        .map_err(|answer| (answer, Some((session.client_id.clone(), session.mailbox.clone()))))?;
    Ok((session, length, place))
}

fn error(shared: &Shared, status: u16, code: &str, message: &str) -> Answer {
    Answer::shaped(shared.options.error_shape, status, code, message)
}

/// What a right client always gets right; gives the body's length.
fn check_form(shared: &Shared, method: &Method, headers: &HeaderMap) -> Result<u64, Answer> {
    let refuse = |status, what: &str| {
        shared.violation(format!("importItem: {what}"));
        Err(error(shared, status, "ErrorInvalidRequest", what))
    };
    if method != Method::POST {
        return refuse(405, "only POST is allowed");
    }
    if headers.contains_key(header::AUTHORIZATION) {
        return refuse(400, "an Authorization header must not be sent");
    }
    let kind = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    if kind != "application/json" && !kind.starts_with("application/json;") {
        return refuse(415, "the content type must be application/json");
    }
    if headers.contains_key(header::CONTENT_ENCODING) {
        return refuse(415, "a content encoding is not supported");
    }
    let length =
        headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()).and_then(|v| v.parse().ok());
    match length {
        Some(length) => Ok(length),
        None => refuse(411, "Content-Length is required"),
    }
}

fn authtoken(path_and_query: &str) -> &str {
    path_and_query.split_once("?authtoken=").map_or("", |(_, token)| token)
}

fn find_session(shared: &Shared, url: &str, mailbox: &str) -> Result<Session, Answer> {
    let refuse =
        |text: &str| error(shared, shared.options.expired_status, "InvalidAuthenticationToken", text);
    let found = shared.world().session(authtoken(url)).cloned();
    let Some(session) = found else {
        shared.violation(format!("importItem: no session has this URL (mailbox {mailbox})"));
        return Err(refuse("The auth token is not valid."));
    };
    if session.path_and_query != url {
        shared.violation(format!("importItem: the session's URL was changed (mailbox {mailbox})"));
        return Err(refuse("The auth token is not valid for this address."));
    }
    if session.ended || session.expires_ms <= shared.world().now_ms() {
        return Err(refuse("The import session has expired."));
    }
    Ok(session)
}

fn end_session(shared: &Shared, url: &str) {
    if let Some(session) = shared.world().store.sessions.get_mut(authtoken(url)) {
        session.ended = true;
    }
}

/// Reads on after a refusal, as the real front end does, and charges what still comes.
fn drain(shared: &Arc<Shared>, meter: Option<(String, String)>, mut body: Incoming) {
    if !shared.options.read_refused {
        return;
    }
    let shared = Arc::clone(shared);
    let tracker = shared.tasks.clone();
    tracker.spawn(async move {
        while let Some(Ok(frame)) = body.frame().await {
            let bytes = frame.data_ref().map_or(0, Bytes::len) as u64;
            let Some(key) = &meter else { continue };
            if let Some(meter) = shared.world().meters.get_mut(key) {
                meter.charge_refused(bytes, Instant::now());
            }
        }
        shared.tell_change();
    });
}

async fn receive(
    shared: &Arc<Shared>,
    line: &Line,
    target: Target<'_>,
    session: Session,
    (length, mut place, head): (u64, Place, Head),
    (headers, body): (HeaderMap, Incoming),
) -> Reply {
    let upload = match read(shared, &session, &mut place, (&head, length), body).await {
        Ok(upload) => upload,
        Err(reply) => return reply,
    };
    let stored_by = headers.get("client-request-id").and_then(|v| v.to_str().ok()).map(str::to_owned);
    let order = judge_form(shared, upload, stored_by);
    let (folder, key) = match &order {
        Ok(order) => (order.folder.clone(), order.item.facts.search_key.clone()),
        Err(_) => (String::new(), None),
    };
    let target = Target { folder: Some(&folder), search_key: key.as_deref(), ..target };
    if let Some(answer) = flow::refusal(shared.take(Stage::Body, &target)) {
        return answer.into();
    }
    let order = match order.and_then(|order| {
        judge(shared, &shared.world(), &session, &order)?;
        Ok(order)
    }) {
        Ok(order) => order,
        Err(answer) => return answer.into(),
    };
    let effects = shared.take(Stage::Commit, &target);
    if let Some((when, meanwhile)) = flow::late(&effects) {
        return store_late(shared, session, order, when, meanwhile);
    }
    let stored = store(shared, &mut shared.world(), &session, order, Moment::Stored);
    shared.tell_change();
    match stored {
        Ok(answer) => flow::commit(effects, answer, line).await,
        Err(answer) => answer.into(),
    }
}

/// Reads the body to its end; the error is what becomes of the request instead.
async fn read(
    shared: &Arc<Shared>,
    session: &Session,
    place: &mut Place,
    (head, length): (&Head, u64),
    mut body: Incoming,
) -> Result<Upload, Reply> {
    let mut reader = Reader::new(length);
    let mut broken = None;
    let mut came = 0;
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else {
            // The client went away, or ended its body early: nothing happens.
            shared.world().aborted_uploads += 1;
            shared.tell_change();
            return Err(Reply::Gone);
        };
        let Some(piece) = frame.data_ref() else { continue };
        came += piece.len() as u64;
        place.came(piece.len());
        if came < length {
            shared.show(&sight(Moment::Receiving, session));
        }
        if let Some((after, cut)) = head.cut_at
            && came >= after
        {
            return Err(Reply::Cut(cut));
        }
        if broken.is_none() {
            broken = reader.feed(piece).err();
        }
        if let Some(pace) = head.pace {
            tokio::time::sleep(flow::time_for(piece.len(), pace)).await;
        }
    }
    let finished = match broken {
        Some(why) => Err(why),
        None => reader.finish(),
    };
    finished.map_err(|why| {
        shared.violation(format!("importItem: the body is no request: {why:?}"));
        let text = match why {
            UploadError::Json(text) => format!("The request body is not valid JSON: {text}."),
            UploadError::Base64 => "Data is not valid base64.".to_owned(),
        };
        error(shared, 400, "ErrorInvalidRequest", &text).into()
    })
}

/// An import that makes sense by itself.
struct Order {
    folder: String,
    /// For an update: the item and the change key it must still have.
    update: Option<(String, String)>,
    item: NewItem,
}

const KEYS: [&str; 4] = ["FolderId", "Mode", "ItemId", "ChangeKey"];

fn judge_form(shared: &Shared, upload: Upload, stored_by: Option<String>) -> Result<Order, Answer> {
    let refuse = |what: &str| {
        shared.violation(format!("importItem: {what}"));
        error(shared, 400, "ErrorInvalidRequest", what)
    };
    if let Some((key, _)) = upload.fields.iter().find(|(key, _)| !KEYS.contains(&key.as_str())) {
        return Err(refuse(&format!("unknown property {key}")));
    }
    let given = |key: &str| upload.field(key).filter(|value| !value.is_empty()).map(str::to_owned);
    let folder = given("FolderId").ok_or_else(|| refuse("FolderId is required"))?;
    let (item_id, change_key) = (given("ItemId"), given("ChangeKey"));
    let update = match (upload.field("Mode"), item_id, change_key) {
        (Some("create"), _, _) if upload.field("ItemId").or(upload.field("ChangeKey")).is_some() => {
            return Err(refuse("ItemId and ChangeKey must not be given to create"));
        }
        (Some("create"), _, _) => None,
        (Some("update"), Some(item_id), Some(change_key)) => Some((item_id, change_key)),
        (Some("update"), _, _) => return Err(refuse("ItemId and ChangeKey are required to update")),
        (mode, _, _) => return Err(refuse(&format!("unknown Mode {mode:?}"))),
    };
    let data = upload.data.ok_or_else(|| refuse("Data is required"))?;
    let facts = (shared.options.read_item)(&data.bytes).map_err(|why| {
        let text = format!("The data is corrupted and cannot be processed: {why}.");
        error(shared, 400, "ErrorCorruptData", &text)
    })?;
    let item = NewItem { facts, sha256: hex(&data.sha256), length: data.bytes.len() as u64, stored_by };
    Ok(Order { folder, update, item })
}

/// Whether the mailbox can take it now.
fn judge(shared: &Shared, world: &World, session: &Session, order: &Order) -> Result<(), Answer> {
    let gone = || error(shared, 404, "ErrorItemNotFound", "The specified object was not found in the store.");
    let mailbox = world.store.mailboxes.get(&session.mailbox).ok_or_else(gone)?;
    if let Some(elsewhere) = mailbox.moved.get(&order.folder) {
        let text = format!("Invalid import session. The target session is expected in mailbox {elsewhere}.");
        return Err(Answer::json(409, &json!({"Message": text})));
    }
    if !mailbox.folders.contains_key(&order.folder) {
        let text = "The specified folder could not be found in the store.";
        return Err(error(shared, 404, "ErrorFolderNotFound", text));
    }
    let mut before = 0;
    if let Some((item_id, change_key)) = &order.update {
        let item = mailbox.item(item_id).filter(|item| item.folder == order.folder).ok_or_else(gone)?;
        before = item.length;
        if item.change_key != *change_key {
            let text = "The send or update operation could not be performed because the change key passed in the \
                        request does not match the current change key for the item.";
            return Err(error(shared, shared.options.stale_key_status, "ErrorIrresolvableConflict", text));
        }
    }
    if mailbox.quota.is_some_and(|quota| (mailbox.used + order.item.length).saturating_sub(before) > quota) {
        return Err(error(shared, 507, "ErrorQuotaExceeded", "The mailbox quota is exceeded."));
    }
    Ok(())
}

/// Stores it, if the mailbox can still take it.
fn store(
    shared: &Shared,
    world: &mut World,
    session: &Session,
    order: Order,
    moment: Moment,
) -> Result<Answer, Answer> {
    judge(shared, world, session, &order)?;
    let now_ms = world.now_ms();
    let (item_id, change_key) = match &order.update {
        None => world.new_keys(),
        Some((item_id, _)) => (item_id.clone(), world.new_change_key()),
    };
    shared.show(&Sight {
        item_id: Some(&item_id),
        search_key: order.item.facts.search_key.as_deref(),
        ..sight(moment, session)
    });
    if let Some(mailbox) = world.store.mailboxes.get_mut(&session.mailbox) {
        match &order.update {
            None => mailbox.create(&order.folder, order.item, (item_id.clone(), change_key.clone()), now_ms),
            Some(_) => {
                mailbox.update(&item_id, order.item, change_key.clone(), now_ms);
            }
        }
    }
    let version = if session.path_and_query.starts_with("/api/gbeta/") { "gbeta" } else { "gv1.0" };
    let body = json!({
        "@odata.context":
            format!("{}/api/{version}/$metadata#microsoft.graph.importMailboxItemResponse", shared.import),
        "itemId": item_id, "changeKey": change_key,
    });
    Ok(Answer::json(shared.options.import_status, &body))
}

fn sight(moment: Moment, session: &Session) -> Sight<'_> {
    Sight {
        moment,
        client_id: &session.client_id,
        mailbox: &session.mailbox,
        item_id: None,
        search_key: None,
    }
}

fn store_late(
    shared: &Arc<Shared>,
    session: Session,
    order: Order,
    when: super::fault::When,
    meanwhile: Meanwhile,
) -> Reply {
    shared.world().pending_commits += 1;
    let late = Arc::clone(shared);
    shared.tasks.spawn(async move {
        tokio::select! {
            () = late.stop.cancelled() => return,
            () = when.wait() => {}
        }
        let mut world = late.world();
        // It may be refused by now; then nobody is told either.
        store(&late, &mut world, &session, order, Moment::StoredLate).ok();
        world.pending_commits -= 1;
        drop(world);
        late.tell_change();
    });
    match meanwhile {
        Meanwhile::Cut(cut) => Reply::Cut(cut),
        Meanwhile::Silence => Reply::Silence,
        Meanwhile::Timeout => Answer::error(504, "GatewayTimeout", "The request timed out.").into(),
    }
}
