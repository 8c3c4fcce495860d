//! The `OData` options of the item list, as far as the service takes them, and items as it shows them.
//!
//! `$filter` on `createdDateTime` and `lastModifiedDateTime`, `$select`, `$top`, `$skip`, `$orderby`, `$count`,
//! `$expand` of single-value extended properties; ids of these come back without leading zeros and in lower case
//! (`Binary 0x300b`); binary ones cannot be filtered on (facts, section 6).

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Map, Value, json};

use super::{
    store::{StoredItem, unhex},
    text,
};

/// A list request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Query {
    conditions: Vec<Condition>,
    select: Option<Vec<String>>,
    pub(super) top: Option<usize>,
    pub(super) skip: usize,
    pub(super) newest_first: bool,
    pub(super) count: bool,
    expand: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Created,
    Modified,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    Ge,
    Gt,
    Le,
    Lt,
    Eq,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Condition {
    field: Field,
    comparison: Comparison,
    value: i64,
}

/// The names that `$select` may ask for.
const FIELDS: [&str; 7] =
    ["id", "changeKey", "categories", "createdDateTime", "lastModifiedDateTime", "size", "type"];

/// The largest page (practitioners ask for up to 999).
const LARGEST_PAGE: usize = 1000;

impl Query {
    /// Reads the query part of a URL; the error says what the service would not understand.
    pub(super) fn parse(query: &str) -> Result<Self, String> {
        let mut parsed = Self::default();
        for (key, value) in text::pairs(query).ok_or("the query is not percent-encoded rightly")? {
            match key.as_str() {
                "$filter" => parsed.conditions = conditions(&value)?,
                "$select" => parsed.select = Some(selected(&value)?),
                "$top" => {
                    let top = value.parse().ok().filter(|n| (1..=LARGEST_PAGE).contains(n));
                    parsed.top = Some(top.ok_or_else(|| format!("$top={value}"))?);
                }
                "$skip" => parsed.skip = value.parse().map_err(|_| format!("$skip={value}"))?,
                "$orderby" => parsed.newest_first = newest_first(&value)?,
                "$count" => parsed.count = value == "true",
                "$expand" => parsed.expand = expanded(&value)?,
                _ => return Err(format!("unknown option {key}")),
            }
        }
        Ok(parsed)
    }

    pub(super) fn filters(&self) -> bool {
        !self.conditions.is_empty()
    }

    pub(super) fn expands(&self) -> bool {
        !self.expand.is_empty()
    }

    pub(super) fn wants(&self, item: &StoredItem) -> bool {
        self.conditions.iter().all(|condition| {
            let have = match condition.field {
                Field::Created => item.created_ms,
                Field::Modified => item.modified_ms,
            };
            match condition.comparison {
                Comparison::Ge => have >= condition.value,
                Comparison::Gt => have > condition.value,
                Comparison::Le => have <= condition.value,
                Comparison::Lt => have < condition.value,
                Comparison::Eq => have == condition.value,
            }
        })
    }

    /// The item as `$select` and `$expand` want it.
    pub(super) fn show(&self, item: &StoredItem) -> Value {
        let mut shown = Map::new();
        shown.insert("@odata.etag".into(), json!(format!("W/\"{}\"", item.change_key)));
        for field in FIELDS {
            if self.select.as_ref().is_some_and(|wanted| field != "id" && !wanted.iter().any(|w| w == field))
            {
                continue;
            }
            let value = match field {
                "id" => json!(item.item_id),
                "changeKey" => json!(item.change_key),
                "categories" => json!([]),
                "createdDateTime" => json!(text::whole_seconds(item.created_ms)),
                "lastModifiedDateTime" => json!(text::whole_seconds(item.modified_ms)),
                "size" => json!(item.length),
                _ => json!(item.message_class),
            };
            shown.insert(field.into(), value);
        }
        let properties: Vec<Value> = self
            .expand
            .iter()
            .filter_map(|id| property(item, id).map(|value| json!({"id": id, "value": value})))
            .collect();
        if !properties.is_empty() {
            shown.insert("singleValueExtendedProperties".into(), json!(properties));
        }
        Value::Object(shown)
    }
}

fn conditions(filter: &str) -> Result<Vec<Condition>, String> {
    if filter.contains("ExtendedProperties") {
        return Err("The property 'singleValueExtendedProperties' cannot be used in $filter.".to_owned());
    }
    filter
        .split(" and ")
        .map(|part| {
            let words: Vec<&str> = part.split_whitespace().collect();
            let [field, comparison, value] = words[..] else { return Err(format!("$filter: {part}")) };
            let field = match field {
                "createdDateTime" => Field::Created,
                "lastModifiedDateTime" => Field::Modified,
                _ => return Err(format!("$filter: {field} cannot be filtered on")),
            };
            let comparison = match comparison {
                "ge" => Comparison::Ge,
                "gt" => Comparison::Gt,
                "le" => Comparison::Le,
                "lt" => Comparison::Lt,
                "eq" => Comparison::Eq,
                _ => return Err(format!("$filter: {comparison}")),
            };
            let value = text::parse_moment(value).ok_or_else(|| format!("$filter: {value} is no date"))?;
            Ok(Condition { field, comparison, value })
        })
        .collect()
}

fn selected(value: &str) -> Result<Vec<String>, String> {
    value
        .split(',')
        .map(|name| {
            let name = name.trim();
            FIELDS
                .contains(&name)
                .then(|| name.to_owned())
                .ok_or_else(|| format!("$select: no property {name}"))
        })
        .collect()
}

fn newest_first(value: &str) -> Result<bool, String> {
    match value.split_whitespace().collect::<Vec<_>>()[..] {
        ["createdDateTime" | "lastModifiedDateTime"]
        | ["createdDateTime" | "lastModifiedDateTime", "asc"] => Ok(false),
        ["createdDateTime" | "lastModifiedDateTime", "desc"] => Ok(true),
        _ => Err(format!("$orderby: {value}")),
    }
}

/// The property ids of `singleValueExtendedProperties($filter=id eq '…' or id eq '…')`, normalised.
fn expanded(value: &str) -> Result<Vec<String>, String> {
    value
        .strip_prefix("singleValueExtendedProperties($filter=")
        .and_then(|rest| rest.strip_suffix(')'))
        .ok_or_else(|| format!("$expand: {value}"))?
        .split(" or ")
        .map(|part| {
            part.trim()
                .strip_prefix("id eq '")
                .and_then(|rest| rest.strip_suffix('\''))
                .and_then(normalised)
                .ok_or_else(|| format!("$expand: {part}"))
        })
        .collect()
}

/// `Binary 0x300B` → `Binary 0x300b`, `String 0x0037` → `String 0x37`; named properties are not modelled.
pub(super) fn normalised(id: &str) -> Option<String> {
    const KINDS: [&str; 8] =
        ["Binary", "Boolean", "CLSID", "Double", "Integer", "Long", "String", "SystemTime"];
    let (kind, tag) = id.split_once(' ')?;
    let kind = KINDS.iter().find(|k| k.eq_ignore_ascii_case(kind))?;
    let digits = tag.strip_prefix("0x").or_else(|| tag.strip_prefix("0X"))?;
    let number = u16::from_str_radix(digits, 16).ok()?;
    Some(format!("{kind} 0x{number:x}"))
}

fn property(item: &StoredItem, id: &str) -> Option<String> {
    match id {
        "Binary 0x300b" => item.search_key.as_ref().map(|key| STANDARD.encode(unhex(key))),
        "String 0x1a" => Some(item.message_class.clone()),
        "String 0x37" => Some(item.subject.clone()),
        "SystemTime 0xe06" => item.delivery_time.map(text::whole_seconds),
        _ => item
            .properties
            .iter()
            .find(|(have, _)| normalised(have).as_deref() == Some(id))
            .map(|(_, value)| value.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn property_ids_come_back_normalised() {
        for (asked, told) in [
            ("Binary 0x300B", Some("Binary 0x300b")),
            ("String 0x0037", Some("String 0x37")),
            ("SystemTime 0x0E06", Some("SystemTime 0xe06")),
            ("Text 0x37", None),
            ("String 37", None),
        ] {
            assert_eq!(normalised(asked).as_deref(), told, "{asked}");
        }
    }

    #[test]
    fn what_the_service_does_not_understand_is_refused() {
        for query in [
            "$search=a",
            "$filter=subject%20eq%20'a'",
            "$filter=createdDateTime%20ge%20yesterday",
            "$filter=singleValueExtendedProperties/any(ep:ep/id%20eq%20'Binary%200x300B')",
            "$expand=attachments",
            "$expand=singleValueExtendedProperties",
            "$top=0",
            "$top=5000",
            "$select=subject",
            "$filter=%zz",
        ] {
            assert!(Query::parse(query).is_err(), "{query}");
        }
    }
}
