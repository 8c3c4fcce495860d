//! Looking for items: the only way out of doubt. A page that cannot be read is an error, never "none".

use std::collections::HashSet;

use base64::{Engine, engine::general_purpose::STANDARD};
use reqwest::{Method, StatusCode, Url};
use serde_json::{Map, Value};

use super::{
    answer::Call,
    client,
    graph::{Graph, Request, Root, unreachable},
    wire,
};
use crate::domain::{
    ChangeKey, FolderId, GraphVersion, ItemId, MailboxId, RestoreError, SeenItem, TenantId, UnixMillis,
};

/// Items asked for in a page. Practitioners use 100 to 999.
const PAGE: u32 = 200;
/// Most pages of one look: beyond it the look is an error, so that it ends.
const MAX_PAGES: usize = 2_000;
/// Largest page that is read.
const MAX_PAGE: usize = 16 * 1024 * 1024;
/// The properties by which a hit is judged. Binary ones cannot be filtered on.
const EXPAND: &str = "singleValueExtendedProperties($filter=id eq 'Binary 0x300B' or id eq 'String 0x001A' \
    or id eq 'String 0x0037' or id eq 'SystemTime 0x0E06')";
const SELECT: &str = "id,changeKey,createdDateTime,lastModifiedDateTime,size,type";

/// Where to look, and from when on.
#[derive(Clone, Debug)]
pub struct Look {
    /// The tenant.
    pub tenant: TenantId,
    /// The mailbox posted to.
    pub mailbox: MailboxId,
    /// In place of the configured version.
    pub version: Option<GraphVersion>,
    /// The folder.
    pub folder: FolderId,
    /// Items created at or after this moment of Exchange's clock.
    pub since: UnixMillis,
}

/// Every item of the folder that was created since; `filtered: false` reads the whole folder, for an Exchange that
/// refuses filter and expansion together (undocumented either way).
pub(super) async fn list(
    graph: &Graph<'_>,
    root: &Root,
    look: &Look,
    filtered: bool,
) -> Result<Vec<SeenItem>, RestoreError> {
    let segments =
        ["admin", "exchange", "mailboxes", look.mailbox.as_str(), "folders", look.folder.as_str(), "items"];
    let mut url = root.url(look.version.unwrap_or(root.version), &segments)?;
    ask(&mut url, filtered.then_some(look.since));
    let mut seen = Vec::new();
    let mut visited = HashSet::new();
    let mut next = Some(url);
    while let Some(url) = next {
        if visited.len() >= MAX_PAGES || !visited.insert(url.clone()) {
            return Err(unreachable("the list of items does not end"));
        }
        let page = page(graph, root, &look.tenant, "list_items", url).await?;
        let items = wire::field(&page, "value").and_then(Value::as_array);
        for item in items.ok_or_else(|| unreachable("a page of items holds no value"))? {
            let item = item.as_object().and_then(decode);
            seen.push(item.ok_or_else(|| unreachable("an item of a page could not be understood"))?);
        }
        next = match wire::text(&page, "@odata.nextLink") {
            None => None,
            Some(link) => Some(own_link(root, link)?),
        };
    }
    seen.retain(|item| item.created >= look.since);
    Ok(seen)
}

/// One item, or none if the folder does not hold it.
pub(super) async fn read(
    graph: &Graph<'_>,
    root: &Root,
    look: &Look,
    item: &ItemId,
) -> Result<Option<SeenItem>, RestoreError> {
    let (mailbox, folder) = (look.mailbox.as_str(), look.folder.as_str());
    let segments = ["admin", "exchange", "mailboxes", mailbox, "folders", folder, "items", item.as_str()];
    let mut url = root.url(look.version.unwrap_or(root.version), &segments)?;
    url.query_pairs_mut().append_pair("$select", SELECT).append_pair("$expand", EXPAND);
    match page(graph, root, &look.tenant, "read_item", url).await {
        Ok(page) => match decode(&page) {
            Some(item) => Ok(Some(item)),
            None => Err(unreachable("the item's answer could not be understood")),
        },
        Err(error) if error.http_status == Some(404) => Ok(None),
        Err(error) => Err(error),
    }
}

fn ask(url: &mut Url, since: Option<UnixMillis>) {
    let mut query = url.query_pairs_mut();
    if let Some(since) = since.and_then(wire::filter_moment) {
        query.append_pair("$filter", &format!("createdDateTime ge {since}"));
    }
    query
        .append_pair("$select", SELECT)
        .append_pair("$expand", EXPAND)
        .append_pair("$top", &PAGE.to_string());
}

/// One page as an object. A folder that has moved (an expanded archive answers 308) is followed once, at Graph only.
async fn page(
    graph: &Graph<'_>,
    root: &Root,
    tenant: &TenantId,
    operation: &'static str,
    url: Url,
) -> Result<Map<String, Value>, RestoreError> {
    let mut request = Request { operation, call: Call::Look, method: Method::GET, url };
    let (mut answer, mut hints) = graph.send(tenant, &request).await?;
    if answer.status().is_redirection()
        && let Some(location) = &hints.location
    {
        request.url = own_link(root, location)?;
        (answer, hints) = graph.send(tenant, &request).await?;
    }
    if answer.status() != StatusCode::OK {
        return Err(graph.refused(request.call, answer, &hints).await);
    }
    let broken = |why: String| RestoreError { request_id: hints.request_id.clone(), ..unreachable(&why) };
    let body =
        client::read(answer, MAX_PAGE).await.map_err(|why| broken(format!("a page of items: {why}")))?;
    wire::object(&body).ok_or_else(|| broken("a page of items is no JSON object".into()))
}

/// A link that Graph sent, if it leads to Graph: our token goes nowhere else.
fn own_link(root: &Root, link: &str) -> Result<Url, RestoreError> {
    let url = Url::parse(link).ok().filter(|url| root.owns(url));
    url.ok_or_else(|| unreachable("a page of items leads to another host than Graph's"))
}

/// An item of a page; none if it lacks id or creation, without which it proves nothing.
pub(super) fn decode(item: &Map<String, Value>) -> Option<SeenItem> {
    let moment = |name| wire::text(item, name).and_then(wire::moment);
    let properties = wire::field(item, "singleValueExtendedProperties").and_then(Value::as_array);
    let property = |tag: u32| {
        let mut objects = properties.into_iter().flatten().filter_map(Value::as_object);
        let found = objects.find(|object| wire::text(object, "id").and_then(tag_of) == Some(tag))?;
        wire::text(found, "value")
    };
    Some(SeenItem {
        item_id: ItemId::parse(wire::text(item, "id")?).ok()?,
        change_key: wire::text(item, "changeKey").and_then(|key| ChangeKey::parse(key).ok()),
        created: moment("createdDateTime")?,
        search_key: property(0x300B).and_then(|value| STANDARD.decode(value).ok()),
        message_class: property(0x001A).or_else(|| wire::text(item, "type")).map(str::to_owned),
        subject: property(0x0037).map(str::to_owned),
        delivery_time: property(0x0E06).and_then(wire::moment),
    })
}

/// The tag in `Binary 0x300B`, whatever its case and leading zeros: Graph sends another spelling than was asked for.
fn tag_of(id: &str) -> Option<u32> {
    let hex = id.split_whitespace().nth(1)?;
    u32::from_str_radix(hex.strip_prefix("0x").or_else(|| hex.strip_prefix("0X"))?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_item_is_read_in_graphs_own_spelling() {
        let page =
            br#"{"id":"AAk=","changeKey":"ck","createdDateTime":"2026-11-23T08:11:00.1234567Z","size":12,
            "type":"IPM.Note","singleValueExtendedProperties":[{"id":"Binary 0x300b","value":"AQID"},
            {"id":"String 0x37","value":"s"},{"id":"SystemTime 0xE06","value":"2026-11-23T08:00:00Z"}]}"#;
        let item = decode(&wire::object(page).expect("an object")).expect("an item");
        assert_eq!(item.search_key.as_deref(), Some(&[1, 2, 3][..]));
        assert_eq!(item.subject.as_deref(), Some("s"));
        assert_eq!(item.message_class.as_deref(), Some("IPM.Note"));
        assert_eq!(item.created.since(item.delivery_time.expect("a time")).as_millis(), 660_123);
    }

    proptest! {
        #[test]
        fn no_page_panics(body in proptest::collection::vec(any::<u8>(), 0..300), id in ".{0,40}") {
            if let Some(object) = wire::object(&body) {
                let _seen = decode(&object);
            }
            let _tag = tag_of(&id);
        }
    }
}
