//! Which of the items that a look has shown are the job's own. Pure: the look itself is `exchange`'s.

use std::time::Duration;

use super::{
    event::Imported,
    job::{ChangeKey, ItemId, UnixMillis},
};

/// An item as a look shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenItem {
    /// The item.
    pub item_id: ItemId,
    /// Its version, if the answer named it.
    pub change_key: Option<ChangeKey>,
    /// When Exchange made it, in Exchange's time.
    pub created: UnixMillis,
    /// `PidTagSearchKey`.
    pub search_key: Option<Vec<u8>>,
    /// `PidTagMessageClass`.
    pub message_class: Option<String>,
    /// `PidTagSubject`.
    pub subject: Option<String>,
    /// `PidTagMessageDeliveryTime`.
    pub delivery_time: Option<UnixMillis>,
}

impl SeenItem {
    /// The item as proof of success.
    #[must_use]
    pub fn as_imported(&self) -> Option<Imported> {
        Some(Imported { item_id: self.item_id.clone(), change_key: self.change_key.clone()? })
    }
}

/// By what an item is recognised.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ItemIdentity {
    /// `PidTagSearchKey`: kept by an import, shared by copies.
    pub search_key: Option<Vec<u8>>,
    /// `PidTagMessageClass`.
    pub message_class: Option<String>,
    /// `PidTagSubject`.
    pub subject: Option<String>,
    /// `PidTagMessageDeliveryTime`.
    pub delivery_time: Option<UnixMillis>,
}

impl ItemIdentity {
    /// Whether the item can have been made from the blob: same search key, and no property that both know differs.
    #[must_use]
    pub fn matches(&self, seen: &SeenItem) -> bool {
        fn agree<T: PartialEq>(ours: Option<&T>, theirs: Option<&T>) -> bool {
            !matches!((ours, theirs), (Some(ours), Some(theirs)) if ours != theirs)
        }
        let same_second = |t: &UnixMillis| t.0.div_euclid(1_000);
        self.search_key.is_some()
            && self.search_key == seen.search_key
            && agree(self.message_class.as_ref(), seen.message_class.as_ref())
            && agree(self.subject.as_ref(), seen.subject.as_ref())
            && agree(
                self.delivery_time.as_ref().map(same_second).as_ref(),
                seen.delivery_time.as_ref().map(same_second).as_ref(),
            )
    }
}

/// What a look says, before anything is taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hits {
    /// Items that can be the job's, oldest first.
    pub ripe: Vec<SeenItem>,
    /// How long until the youngest match is old enough: until then its own job's answer may be on the way.
    pub ripens_in: Option<Duration>,
}

/// Sorts the items that a look has shown.
///
/// `since` is the first claim's time less the margin, `now` and `since` are in Exchange's time, `ripe_after` is
/// `request_timeout` + `clock_margin`.
#[must_use]
pub fn hits(
    seen: Vec<SeenItem>,
    identity: &ItemIdentity,
    since: UnixMillis,
    now: UnixMillis,
    ripe_after: Duration,
) -> Hits {
    // Graph shows moments cut to whole seconds: an item made in the second of `since` may look older than it.
    let since = UnixMillis(since.0.div_euclid(1_000) * 1_000);
    let mut matching: Vec<_> =
        seen.into_iter().filter(|item| item.created >= since && identity.matches(item)).collect();
    matching.sort_by(|a, b| (a.created, &a.item_id).cmp(&(b.created, &b.item_id)));
    let waits = |item: &SeenItem| item.created.plus(ripe_after).since(now);
    let ripens_in = matching.iter().map(waits).filter(|left| !left.is_zero()).max();
    matching.retain(|item| waits(item).is_zero());
    Hits { ripe: matching, ripens_in }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(id: &str, created: i64, key: &[u8], subject: Option<&str>) -> SeenItem {
        SeenItem {
            item_id: ItemId::parse(id).expect("id"),
            change_key: None,
            created: UnixMillis(created),
            search_key: Some(key.to_vec()),
            message_class: Some("IPM.Note".into()),
            subject: subject.map(Into::into),
            delivery_time: None,
        }
    }

    #[test]
    fn only_matching_items_since_the_claim_that_are_old_enough() {
        let identity = ItemIdentity {
            search_key: Some(b"k".to_vec()),
            message_class: Some("IPM.Note".into()),
            subject: Some("s".into()),
            delivery_time: Some(UnixMillis(7)),
        };
        let seen = vec![
            item("young", 9_950, b"k", Some("s")),
            item("second", 9_000, b"k", None),
            item("first-cut-to-its-second", 8_000, b"k", Some("s")),
            item("other-subject", 9_000, b"k", Some("t")),
            item("other-key", 9_000, b"x", Some("s")),
            item("before", 7_999, b"k", Some("s")),
        ];
        let hits = hits(seen, &identity, UnixMillis(8_600), UnixMillis(10_000), Duration::from_millis(200));
        let ids: Vec<_> = hits.ripe.iter().map(|i| i.item_id.as_str()).collect();
        assert_eq!(ids, ["first-cut-to-its-second", "second"]);
        assert_eq!(hits.ripens_in, Some(Duration::from_millis(150)));
    }

    #[test]
    fn nothing_matches_a_blob_without_a_search_key() {
        assert!(!ItemIdentity::default().matches(&SeenItem { search_key: None, ..item("x", 1, b"", None) }));
    }
}
