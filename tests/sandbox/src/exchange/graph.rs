//! Microsoft Graph: sessions, and looks at folders and items.
//!
//! Paths and permissions as in the reference (facts, sections 1, 2, 5, 6).

use std::sync::Arc;

use http::{Method, header};
use hyper::body::Body as _;
use serde_json::{Value, json};

use super::{
    answer::Answer,
    directory::{ROLE_FOLDERS, ROLE_IMPORT, ROLE_READ, ROLE_READ_WRITE, Token},
    fault::{Operation, Stage, Target},
    flow::{self, Reply},
    query::Query,
    sight::{Moment, Sight},
    store::{Mailbox, MailboxKind, Session, StoredItem},
    text,
    wire::Line,
    world::{Shared, World},
};

/// A request's place in Graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) beta: bool,
    pub(super) mailbox: String,
    pub(super) target: RouteTarget,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum RouteTarget {
    Session,
    Folders,
    Items { folder: String },
    Item { folder: String, item: String },
}

impl Route {
    /// Reads method and raw path; ids are one percent-encoded segment each.
    pub(super) fn parse(method: &Method, path: &str) -> Option<Self> {
        let segments: Vec<String> =
            path.strip_prefix('/')?.split('/').map(text::decode).collect::<Option<_>>()?;
        let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
        let [version, "admin", "exchange", "mailboxes", mailbox, rest @ ..] = segments.as_slice() else {
            return None;
        };
        let beta = match *version {
            "v1.0" => false,
            "beta" => true,
            _ => return None,
        };
        let target = match (method, rest) {
            (&Method::POST, ["createImportSession"]) => RouteTarget::Session,
            (&Method::GET, ["folders"]) => RouteTarget::Folders,
            (&Method::GET, ["folders", folder, "items"]) => {
                RouteTarget::Items { folder: (*folder).to_owned() }
            }
            (&Method::GET, ["folders", folder, "items", item]) => {
                RouteTarget::Item { folder: (*folder).to_owned(), item: (*item).to_owned() }
            }
            _ => return None,
        };
        Some(Self { beta, mailbox: (*mailbox).to_owned(), target })
    }

    pub(super) fn operation(&self) -> Operation {
        match self.target {
            RouteTarget::Session => Operation::OpenSession,
            RouteTarget::Folders => Operation::ListFolders,
            RouteTarget::Items { .. } => Operation::ListItems,
            RouteTarget::Item { .. } => Operation::ReadItem,
        }
    }

    fn folder(&self) -> Option<&str> {
        match &self.target {
            RouteTarget::Session | RouteTarget::Folders => None,
            RouteTarget::Items { folder } | RouteTarget::Item { folder, .. } => Some(folder),
        }
    }
}

/// Answers a request that has a place in Graph.
pub(super) async fn reply(
    shared: &Arc<Shared>,
    line: &Line,
    route: &Route,
    request: hyper::Request<hyper::body::Incoming>,
) -> Reply {
    let operation = route.operation();
    let mut target = Target::in_mailbox(operation, None, &route.mailbox);
    target.folder = route.folder();
    let tenant = shared.world().store.mailboxes.get(&route.mailbox).map(|m| m.tenant.clone());
    target.tenant = tenant.as_deref();

    if let Some(early) = flow::head(shared.take(Stage::Head, &target)).await.early {
        return early;
    }
    let token = match bearer(shared, request.headers()) {
        Ok(token) => token,
        Err(answer) => return answer.into(),
    };
    if let Err(answer) = allow(shared, &token, route) {
        return answer.into();
    }
    let place = if shared.options.limits.graph_counts {
        shared.enter(&token.client_id, &route.mailbox, 0).map(Some)
    } else {
        Ok(None)
    };
    let _place = match place {
        Ok(place) => place,
        Err(answer) => return answer.into(),
    };
    if let Some(answer) = flow::refusal(shared.take(Stage::Body, &target)) {
        return answer.into();
    }
    let query = request.uri().query().unwrap_or_default();
    let answer = match &route.target {
        RouteTarget::Session => match no_body(shared, &request) {
            Ok(()) => open_session(shared, route, &token),
            Err(answer) => answer,
        },
        RouteTarget::Folders => list_folders(shared, route),
        RouteTarget::Items { folder } => list_items(shared, route, folder, request.uri().path(), query),
        RouteTarget::Item { folder, item } => read_item(shared, route, folder, item, query),
    };
    if !answer.is_success() {
        return answer.into();
    }
    flow::commit(shared.take(Stage::Commit, &target), answer, line).await
}

/// The token of `Authorization: Bearer`, if we issued it and it still holds.
fn bearer(shared: &Shared, headers: &http::HeaderMap) -> Result<Token, Answer> {
    let refuse = |message: &str| {
        Answer::error(401, "InvalidAuthenticationToken", message)
            .header("www-authenticate", "Bearer realm=\"\", error=\"invalid_token\"")
    };
    let shown = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let Some(jwt) = shown.and_then(|value| value.strip_prefix("Bearer ")) else {
        shared.violation("Graph: no bearer token".to_owned());
        return Err(refuse("Access token is empty."));
    };
    let world = shared.world();
    match world.directory.tokens.get(jwt) {
        None => Err(refuse("IDX14100: JWT is not well formed, or its signature is invalid.")),
        Some(token) if token.expires_ms <= world.now_ms() => {
            Err(refuse("Lifetime validation failed, the token is expired."))
        }
        Some(token) if token.revoked => Err(refuse("Continuous access evaluation resulted in challenge.")),
        Some(token) => Ok(token.clone()),
    }
}

/// Whether the token reaches the mailbox for this.
fn allow(shared: &Shared, token: &Token, route: &Route) -> Result<(), Answer> {
    let wanted: &[&str] = match route.target {
        RouteTarget::Session => &[ROLE_IMPORT],
        RouteTarget::Folders => &[ROLE_FOLDERS, "MailboxFolder.ReadWrite.All"],
        RouteTarget::Items { .. } | RouteTarget::Item { .. } => &[ROLE_READ, ROLE_READ_WRITE],
    };
    let denied =
        || Answer::error(403, "ErrorAccessDenied", "Access is denied. Check credentials and try again.");
    let world = shared.world();
    let app = world.directory.apps.get(&token.client_id);
    let by_role = token.roles.iter().any(|role| wanted.contains(&role.as_str()));
    let by_rbac = app.is_some_and(|app| app.rbac.contains(&route.mailbox));
    // Delegated scopes reach the user's own mailbox only (facts, section 1).
    let by_scope = token.delegated.as_ref().is_some_and(|(own, scopes)| {
        *own == route.mailbox
            && scopes
                .iter()
                .any(|scope| wanted.iter().any(|w| w.strip_suffix(".All") == Some(scope.as_str())))
    });
    if !(by_role || by_rbac || by_scope) || app.is_some_and(|app| app.denied.contains(&route.mailbox)) {
        return Err(denied());
    }
    match world.store.mailboxes.get(&route.mailbox) {
        Some(mailbox) if mailbox.tenant == token.tenant => Ok(()),
        _ => Err(not_found()),
    }
}

fn not_found() -> Answer {
    Answer::error(404, "ErrorItemNotFound", "The specified object was not found in the store.")
}

fn folder_not_found() -> Answer {
    Answer::error(404, "ErrorFolderNotFound", "The specified folder could not be found in the store.")
}

/// "Don't supply a request body"; a POST without length is refused by the front end.
fn no_body(shared: &Shared, request: &hyper::Request<hyper::body::Incoming>) -> Result<(), Answer> {
    let length = request.headers().get(header::CONTENT_LENGTH).map(|value| value.as_bytes() == b"0");
    match length {
        Some(true) => Ok(()),
        None if request.version() == http::Version::HTTP_2 && request.body().is_end_stream() => Ok(()),
        Some(false) => {
            shared.violation("createImportSession: a request body".to_owned());
            Err(Answer::error(400, "ErrorInvalidRequest", "No request body is expected."))
        }
        None => {
            shared.violation("createImportSession: no Content-Length: 0".to_owned());
            Err(Answer::status(411).body("Length Required"))
        }
    }
}

fn open_session(shared: &Shared, route: &Route, token: &Token) -> Answer {
    let mut world = shared.world();
    let archive = world.store.mailboxes.get(&route.mailbox).map(|m| m.kind) == Some(MailboxKind::Archive);
    if archive && !route.beta {
        let message = "Operation on Archive mailbox not allowed.";
        return Answer::error(shared.options.archive_status, "ErrorInvalidOperation", message);
    }
    let lifetime = i64::try_from(shared.options.session_lifetime.as_millis()).unwrap_or(i64::MAX);
    let expires_ms = world.now_ms().saturating_add(lifetime);
    let claims = json!({
        "mailbox": route.mailbox, "appid": token.client_id, "tid": token.tenant,
        "exp": expires_ms / 1000, "nonce": world.dice.u64(..).to_string(),
    });
    let authtoken = world.mint(&claims);
    let version = if route.beta { "gbeta" } else { "gv1.0" };
    let mailbox = text::encode_segment(&route.mailbox);
    let path_and_query = format!("/api/{version}/Mailboxes('{mailbox}')/importItem?authtoken={authtoken}");
    let answer = json!({
        "@odata.context": format!("{}/{}/$metadata#microsoft.graph.mailboxItemImportSession", shared.graph,
            if route.beta { "beta" } else { "v1.0" }),
        "importUrl": format!("{}{path_and_query}", shared.import),
        "expirationDateTime": text::seven_digits(expires_ms),
    });
    let session = Session {
        mailbox: route.mailbox.clone(),
        client_id: token.client_id.clone(),
        path_and_query,
        expires_ms,
        ended: false,
    };
    world.store.sessions.insert(authtoken, session);
    if let Some(mailbox) = world.store.mailboxes.get_mut(&route.mailbox) {
        mailbox.sessions_opened += 1;
    }
    drop(world);
    shared.show(&Sight {
        moment: Moment::SessionOpened,
        client_id: &token.client_id,
        mailbox: &route.mailbox,
        item_id: None,
        search_key: None,
    });
    Answer::json(shared.options.session_status, &answer)
}

fn list_folders(shared: &Shared, route: &Route) -> Answer {
    let world = shared.world();
    let Some(mailbox) = world.store.mailboxes.get(&route.mailbox) else { return not_found() };
    let folders: Vec<Value> = mailbox
        .folders
        .iter()
        .map(|(id, folder)| {
            json!({"id": id, "displayName": id, "type": "IPF.Note", "childFolderCount": 0,
                "totalItemCount": folder.items.len()})
        })
        .collect();
    Answer::json(200, &json!({"value": folders}))
}

/// The folder, or why it is not here: 308 for what lives in an auxiliary archive (facts, section 3).
fn look<'w>(
    world: &'w World,
    shared: &Shared,
    route: &Route,
    folder: &str,
) -> Result<&'w super::store::Folder, Answer> {
    let mailbox: &Mailbox = world.store.mailboxes.get(&route.mailbox).ok_or_else(not_found)?;
    if let Some(elsewhere) = mailbox.moved.get(folder) {
        let (elsewhere, folder) = (text::encode_segment(elsewhere), text::encode_segment(folder));
        let version = if route.beta { "beta" } else { "v1.0" };
        let url = format!("{}/{version}/admin/exchange/mailboxes/{elsewhere}/folders/{folder}", shared.graph);
        return Err(Answer::redirect(308, &url));
    }
    mailbox.folders.get(folder).ok_or_else(folder_not_found)
}

fn parse(shared: &Shared, query: &str) -> Result<Query, Answer> {
    let query = Query::parse(query).map_err(|why| {
        shared.violation(format!("Graph query: {why}"));
        Answer::error(400, "ErrorInvalidUrlQuery", &why)
    })?;
    if query.filters() && query.expands() && !shared.options.filter_with_expand {
        let message = "$filter and $expand cannot be combined on this collection.";
        return Err(Answer::error(400, "ErrorInvalidUrlQuery", message));
    }
    Ok(query)
}

fn list_items(shared: &Shared, route: &Route, folder: &str, path: &str, raw: &str) -> Answer {
    let query = match parse(shared, raw) {
        Ok(query) => query,
        Err(answer) => return answer,
    };
    let world = shared.world();
    let folder = match look(&world, shared, route, folder) {
        Ok(folder) => folder,
        Err(answer) => return answer,
    };
    let delay = i64::try_from(shared.options.list_delay.as_millis()).unwrap_or(i64::MAX);
    let visible = world.now_ms().saturating_sub(delay);
    let mut found: Vec<&StoredItem> =
        folder.items.values().filter(|item| item.created_ms <= visible && query.wants(item)).collect();
    if query.newest_first {
        found.reverse();
    }
    let page = query.top.unwrap_or(shared.options.page_size);
    let shown: Vec<Value> = found.iter().skip(query.skip).take(page).map(|item| query.show(item)).collect();
    let mut body = json!({"value": shown});
    if query.count {
        body["@odata.count"] = json!(found.len());
    }
    if query.skip + page < found.len() {
        body["@odata.nextLink"] = json!(next_link(&shared.graph, path, raw, query.skip + page));
    }
    Answer::json(200, &body)
}

/// The same query with the next `$skip` (`%24skip=10` in the reference's example).
fn next_link(graph: &str, path: &str, raw: &str, skip: usize) -> String {
    let kept = text::pairs(raw).unwrap_or_default();
    let mut parts: Vec<String> = kept
        .iter()
        .filter(|(key, _)| key != "$skip")
        .map(|(key, value)| format!("{}={}", text::encode_query(key), text::encode_query(value)))
        .collect();
    parts.push(format!("%24skip={skip}"));
    format!("{graph}{path}?{}", parts.join("&"))
}

fn read_item(shared: &Shared, route: &Route, folder: &str, item: &str, raw: &str) -> Answer {
    let query = match parse(shared, raw) {
        Ok(query) => query,
        Err(answer) => return answer,
    };
    let world = shared.world();
    if let Err(answer) = look(&world, shared, route, folder) {
        return answer;
    }
    let found = world.store.mailboxes.get(&route.mailbox).and_then(|mailbox| mailbox.item(item));
    match found {
        Some(found) if found.folder == folder => Answer::json(200, &query.show(found)),
        _ => not_found(),
    }
}
