//! Puts properties where they belong in an [`Item`].

use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{Attachment, Item, Listed, MAX_LISTED, Person, Recipient};
use crate::fts::{
    finding::Finding,
    identity::Gathering,
    lexer::{Property, Value, Visitor},
    structure::{Place, Structure},
    tags::{self, Marker, sets},
    value,
};

/// Longest text that is shown, in bytes of its UTF-16.
const MAX_TEXT: usize = 2 * 1024;
/// Most categories and other details.
const MAX_DETAILS: usize = 100;

/// Builds an item.
#[derive(Debug)]
pub(super) struct Builder {
    structure: Structure,
    gathering: Gathering,
    item: Item,
    sender: Candidates,
    representing: Candidates,
    /// The recipient or attachment that is open.
    person: Candidates,
    kind: u32,
    file: File,
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            structure: Structure::new(),
            gathering: Gathering::default(),
            item: Item::default(),
            sender: Candidates::default(),
            representing: Candidates::default(),
            person: Candidates::default(),
            kind: 0,
            file: File::default(),
        }
    }
}

/// The properties that a name and an address can come from.
#[derive(Debug, Default)]
struct Candidates {
    name: Option<String>,
    smtp: Option<String>,
    other: Option<String>,
}

impl Candidates {
    fn person(self) -> Person {
        let full = |text: Option<String>| text.filter(|text| !text.is_empty());
        Person { name: full(self.name), address: full(self.smtp).or_else(|| full(self.other)) }
    }
}

/// The properties of an attachment.
#[derive(Debug, Default)]
struct File {
    long: Option<String>,
    short: Option<String>,
    display: Option<String>,
    told: Option<u64>,
    data: Option<u64>,
    shown: Attachment,
    embedded: Gathering,
}

impl File {
    fn attachment(self) -> Attachment {
        let embedded = self.embedded.identity();
        Attachment {
            name: [self.long, self.short, self.display].into_iter().flatten().find(|name| !name.is_empty()),
            size: self.data.or(self.told),
            message_class: embedded.message_class,
            subject: embedded.subject,
            ..self.shown
        }
    }
}

impl Builder {
    /// The item; what was open is taken as it is.
    pub(super) fn finish(mut self) -> Item {
        match self.structure.place() {
            Place::Recipient => self.end_recipient(),
            Place::Attachment | Place::Embedded | Place::Deeper => self.end_attachment(),
            Place::Root => {}
        }
        let identity = self.gathering.identity();
        let some = |person: Person| (person != Person::default()).then_some(person);
        let (sender, representing) = (some(self.sender.person()), some(self.representing.person()));
        let mut item = self.item;
        item.on_behalf_of = representing.clone().filter(|_| sender.is_some() && representing != sender);
        item.sender = sender.or(representing);
        item.message_class = identity.message_class;
        item.subject = identity.subject;
        item.search_key = identity.search_key.as_deref().map(hex);
        item.delivered = identity.delivery_time.and_then(|time| rfc3339(time.0));
        item
    }

    fn end_recipient(&mut self) {
        let kind = match self.kind & 0xF {
            1 => "to",
            2 => "cc",
            3 => "bcc",
            _ => "other",
        };
        let person = std::mem::take(&mut self.person).person();
        push(&mut self.item.recipients, Recipient { kind, person });
        self.kind = 0;
    }

    fn end_attachment(&mut self) {
        push(&mut self.item.attachments, std::mem::take(&mut self.file).attachment());
    }

    fn root(&mut self, property: &Property, value: Value<'_>) {
        self.gathering.value(property, value);
        let text = || Some(value::text(property.kind, value.bytes));
        let time = || value::time(value.bytes).and_then(|time| rfc3339(time.0));
        let item = &mut self.item;
        match property.id {
            tags::INTERNET_MESSAGE_ID => item.internet_message_id = text(),
            tags::MESSAGE_FLAGS => item.flags = value::number(value.bytes).map(flags).unwrap_or_default(),
            tags::IMPORTANCE => item.importance = number(value, &[(0, "low"), (2, "high")]),
            tags::SENSITIVITY => {
                item.sensitivity = number(value, &[(1, "personal"), (2, "private"), (3, "confidential")]);
            }
            tags::CLIENT_SUBMIT_TIME => item.submitted = time(),
            tags::CREATION_TIME => item.created = time(),
            tags::LAST_MODIFICATION_TIME => item.modified = time(),
            tags::BODY => item.bodies.text = Some(value.length),
            tags::BODY_HTML => item.bodies.html = Some(value.length),
            tags::BODY_RTF => item.bodies.rtf = Some(value.length),
            tags::SENDER_NAME => self.sender.name = text(),
            tags::SENDER_SMTP => self.sender.smtp = text(),
            tags::SENDER_ADDRESS => self.sender.other = text(),
            tags::REPRESENTING_NAME => self.representing.name = text(),
            tags::REPRESENTING_SMTP => self.representing.smtp = text(),
            tags::REPRESENTING_ADDRESS => self.representing.other = text(),
            _ => {}
        }
    }

    fn recipient(&mut self, property: &Property, value: Value<'_>) {
        let text = || Some(value::text(property.kind, value.bytes));
        match property.id {
            tags::RECIPIENT_TYPE => self.kind = value::number(value.bytes).unwrap_or_default(),
            tags::DISPLAY_NAME => self.person.name = text(),
            tags::SMTP_ADDRESS => self.person.smtp = text(),
            tags::EMAIL_ADDRESS => self.person.other = text(),
            _ => {}
        }
    }

    fn attachment(&mut self, property: &Property, value: Value<'_>) {
        let text = || Some(value::text(property.kind, value.bytes));
        let file = &mut self.file;
        match property.id {
            tags::ATTACH_LONG_FILENAME => file.long = text(),
            tags::ATTACH_FILENAME => file.short = text(),
            tags::DISPLAY_NAME => file.display = text(),
            tags::ATTACH_MIME => file.shown.mime = text(),
            tags::ATTACH_SIZE => file.told = value::number(value.bytes).map(u64::from),
            tags::ATTACH_DATA if matches!(property.kind, tags::BINARY | tags::OBJECT) => {
                file.data = Some(value.length);
            }
            tags::ATTACH_METHOD => {
                let methods = [(0, "none"), (1, "file"), (2, "reference"), (4, "reference"), (5, "embedded")];
                file.shown.method =
                    number(value, &methods).or_else(|| number(value, &[(6, "ole"), (7, "web")]));
            }
            _ => {}
        }
    }

    fn named(&mut self, property: &Property, value: Value<'_>) {
        let Some((name, kind)) = known(property) else { return };
        if self.item.details.len() >= MAX_DETAILS {
            return;
        }
        let text = match kind {
            Kind::Text => Some(value::text(property.kind, value.bytes)),
            Kind::Time => value::time(value.bytes).and_then(|time| rfc3339(time.0)),
            Kind::YesNo => value::number(value.bytes).map(|n| if n == 0 { "no" } else { "yes" }.to_owned()),
            Kind::Hex => Some(hex(value.bytes)),
            Kind::TaskStatus => number(
                value,
                &[(0, "not started"), (1, "in progress"), (2, "complete"), (3, "waiting"), (4, "deferred")],
            )
            .map(str::to_owned),
        };
        self.item.details.extend(text.filter(|text| !text.is_empty()).map(|text| (name, text)));
    }
}

impl Visitor for Builder {
    fn marker(&mut self, marker: Marker, _: u64) {
        let before = self.structure.place();
        self.structure.marker(marker, &mut |_| {});
        self.item.embedded_messages += u64::from(marker == Marker::StartEmbed);
        match (before, self.structure.place()) {
            (Place::Recipient, Place::Root) => self.end_recipient(),
            (Place::Attachment | Place::Embedded | Place::Deeper, Place::Root) => self.end_attachment(),
            _ => {}
        }
    }

    fn property(&mut self, property: &Property) -> usize {
        self.structure.property(property, &mut |_| {});
        self.item.properties += 1;
        let skipped =
            matches!(property.id, tags::BODY | tags::BODY_HTML | tags::BODY_RTF | tags::ATTACH_DATA);
        if skipped || self.structure.place() == Place::Deeper { 0 } else { MAX_TEXT }
    }

    fn value(&mut self, property: &Property, value: Value<'_>) {
        match self.structure.place() {
            Place::Root if property.is_named() => self.named(property, value),
            _ if property.is_named() => {}
            Place::Root => self.root(property, value),
            Place::Recipient => self.recipient(property, value),
            Place::Attachment => self.attachment(property, value),
            Place::Embedded => self.file.embedded.value(property, value),
            Place::Deeper => {}
        }
    }

    fn odd(&mut self, _: Finding, _: u64) {}
}

enum Kind {
    Text,
    Time,
    YesNo,
    Hex,
    TaskStatus,
}

/// The named properties that are shown: by set and id, never by the local number.
fn known(property: &Property) -> Option<(&'static str, Kind)> {
    match (property.set, property.lid) {
        (sets::APPOINTMENT, Some(0x820D)) => Some(("starts", Kind::Time)),
        (sets::APPOINTMENT, Some(0x820E)) => Some(("ends", Kind::Time)),
        (sets::APPOINTMENT, Some(0x8208)) => Some(("location", Kind::Text)),
        (sets::APPOINTMENT, Some(0x8223)) => Some(("recurring", Kind::YesNo)),
        (sets::MEETING, Some(0x0003)) => Some(("global object id", Kind::Hex)),
        (sets::ADDRESS, Some(0x8005)) => Some(("file as", Kind::Text)),
        (sets::ADDRESS, Some(0x8080)) => Some(("e-mail name", Kind::Text)),
        (sets::ADDRESS, Some(0x8083)) => Some(("e-mail", Kind::Text)),
        (sets::TASK, Some(0x8101)) => Some(("status", Kind::TaskStatus)),
        (sets::TASK, Some(0x8105)) => Some(("due", Kind::Time)),
        (sets::PUBLIC_STRINGS, None) if value::utf16(&property.name) == "Keywords" => {
            Some(("category", Kind::Text))
        }
        _ => None,
    }
}

fn push<T>(list: &mut Listed<T>, thing: T) {
    list.count += 1;
    if list.first.len() < MAX_LISTED {
        list.first.push(thing);
    }
}

fn number(value: Value<'_>, words: &[(u32, &'static str)]) -> Option<&'static str> {
    let number = value::number(value.bytes)?;
    words.iter().find(|(known, _)| *known == number).map(|(_, word)| *word)
}

/// `PidTagMessageFlags` (MS-OXCMSG 2.2.1.6).
fn flags(bits: u32) -> Vec<String> {
    const NAMES: [(u32, &str); 4] =
        [(0x1, "read"), (0x8, "draft"), (0x10, "has_attachments"), (0x40, "associated")];
    NAMES.iter().filter(|(bit, _)| bits & bit != 0).map(|(_, name)| (*name).to_owned()).collect()
}

/// Bytes as lower-case hexadecimal.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes all");
        text
    })
}

fn rfc3339(millis: i64) -> Option<String> {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(millis) * 1_000_000).ok()?.format(&Rfc3339).ok()
}
