//! An item as text for a terminal: what it is first, then what is in it, then what is wrong with it.

use crate::fts::item::{Attachment, Item, Person};

use super::Inspection;

/// Width of the left column.
const LABEL: usize = 14;
/// Most recipients and attachments that are shown as text; `--json` shows more.
const MOST: usize = 12;

/// The whole text.
pub(super) fn text(inspection: &Inspection) -> String {
    let item = &inspection.item;
    let mut page = Page::default();
    page.headline(item);
    page.line("class", item.message_class.as_deref());
    page.line("from", item.sender.as_ref().map(person).as_deref());
    page.line("on behalf of", item.on_behalf_of.as_ref().map(person).as_deref());
    recipients(&mut page, item);
    for (label, time) in [
        ("sent", &item.submitted),
        ("delivered", &item.delivered),
        ("created", &item.created),
        ("modified", &item.modified),
    ] {
        page.line(label, time.as_deref().map(moment).as_deref());
    }
    for (label, value) in &item.details {
        page.line(label, Some(value));
    }
    let marks: Vec<&str> =
        item.flags.iter().map(String::as_str).chain(item.importance).chain(item.sensitivity).collect();
    page.line("marks", (!marks.is_empty()).then(|| marks.join(", ").replace('_', " ")).as_deref());
    page.line("body", bodies(item).as_deref());
    page.line("message id", item.internet_message_id.as_deref());
    page.line("search key", item.search_key.as_deref());
    attachments(&mut page, item);
    stored(&mut page, inspection);
    findings(&mut page, inspection);
    page.text
}

#[derive(Default)]
struct Page {
    text: String,
}

impl Page {
    fn headline(&mut self, item: &Item) {
        let subject = item.subject.as_deref().map(clean).filter(|subject| !subject.is_empty());
        self.raw(subject.as_deref().unwrap_or("(no subject)"));
        self.raw("");
    }

    fn raw(&mut self, line: &str) {
        self.text.push_str(line.trim_end());
        self.text.push('\n');
    }

    fn line(&mut self, label: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.raw(&format!("  {label:<LABEL$}{}", clean(value)));
        }
    }
}

/// Text of an item on a terminal: no control characters, no tricks with the direction of writing, one line.
fn clean(text: &str) -> String {
    const MOST_CHARACTERS: usize = 200;
    let hidden = |c: char| {
        c.is_control()
            || matches!(c, '\u{200B}'..='\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2060}'..='\u{2069}' | '\u{FEFF}')
    };
    let mut out: String =
        text.chars().map(|c| if hidden(c) { '·' } else { c }).take(MOST_CHARACTERS).collect();
    if text.chars().nth(MOST_CHARACTERS).is_some() {
        out.push('…');
    }
    out
}

fn person(person: &Person) -> String {
    match (&person.name, &person.address) {
        (Some(name), Some(address)) if name != address => format!("{name} <{address}>"),
        (Some(one), _) | (None, Some(one)) => one.clone(),
        (None, None) => "(nobody)".into(),
    }
}

fn recipients(page: &mut Page, item: &Item) {
    let mut left = MOST;
    for kind in ["to", "cc", "bcc", "other"] {
        let mut label = kind;
        for recipient in item.recipients.first.iter().filter(|recipient| recipient.kind == kind) {
            if left == 0 {
                break;
            }
            left -= 1;
            page.line(label, Some(&person(&recipient.person)));
            label = "";
        }
    }
    more(page, item.recipients.count, "recipients");
}

fn attachments(page: &mut Page, item: &Item) {
    if item.attachments.count == 0 {
        return;
    }
    page.raw("");
    page.raw(&format!("  {}", count(item.attachments.count, "attachment")));
    for attachment in item.attachments.first.iter().take(MOST) {
        let size = attachment.size.map(bytes).unwrap_or_default();
        page.raw(&format!("  {size:>12}  {}", clean(&described(attachment))));
    }
    more(page, item.attachments.count, "attachments");
}

fn described(attachment: &Attachment) -> String {
    let name = attachment.name.as_deref().unwrap_or("(no name)");
    let class = attachment.message_class.as_deref().unwrap_or("message");
    match (attachment.method, &attachment.subject) {
        (Some("embedded"), Some(subject)) if subject != name => {
            format!("{name} (embedded {class}: {subject})")
        }
        (Some("embedded"), _) => format!("{name} (embedded {class})"),
        (Some("file") | None, _) => match &attachment.mime {
            Some(mime) => format!("{name} ({mime})"),
            None => name.to_owned(),
        },
        (Some(method), _) => format!("{name} ({method})"),
    }
}

fn more(page: &mut Page, count: u64, what: &str) {
    let shown = MOST as u64;
    if count > shown {
        page.line("", Some(&format!("… {} {what} in all", grouped(count))));
    }
}

fn bodies(item: &Item) -> Option<String> {
    let parts = [("text", item.bodies.text), ("HTML", item.bodies.html), ("RTF", item.bodies.rtf)];
    let parts: Vec<String> =
        parts.iter().filter_map(|(name, size)| Some(format!("{name} {}", bytes((*size)?)))).collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}

fn stored(page: &mut Page, inspection: &Inspection) {
    let envelope = &inspection.item.envelope;
    page.raw("");
    page.line("size", Some(&format!("{} ({} bytes)", bytes(envelope.bytes), grouped(envelope.bytes))));
    let form = inspection.stored_as.join(" of ");
    page.line("stored as", (!form.is_empty()).then_some(form.as_str()));
    page.line("sha256", Some(&inspection.sha256));
    page.line("exported by", envelope.server_version.as_deref().map(server).as_deref());
    page.line(
        "stream",
        Some(&format!(
            "{}, {} holding {}; {}",
            count(envelope.records, "record"),
            count(envelope.buffers, "transfer buffer"),
            bytes(envelope.inner_bytes),
            properties(inspection.item.properties)
        )),
    );
    if let Some(at) = inspection.item.not_understood_from {
        page.line("", Some(&format!("not understood from inner byte {} on", grouped(at))));
    }
    if let Some(at) = envelope.salvaged_from {
        page.line("", Some(&format!("framing lost; what is shown was read from byte {} on", grouped(at))));
    }
}

/// The major versions of Exchange.
fn server(version: &str) -> String {
    let name = match version.split('.').take(2).collect::<Vec<_>>()[..] {
        ["8", _] => "Exchange 2007",
        ["14", _] => "Exchange 2010",
        ["15", "0"] => "Exchange 2013",
        ["15", "1"] => "Exchange 2016",
        ["15", "2"] => "Exchange 2019 or SE",
        ["15", "20"] => "Exchange Online",
        _ => return version.to_owned(),
    };
    format!("{name} ({version})")
}

fn findings(page: &mut Page, inspection: &Inspection) {
    let item = &inspection.item;
    page.raw("");
    if let Some(why) = &inspection.broken {
        page.raw(&format!("  ✗ cannot be read to its end: {}", clean(why)));
    }
    for found in &item.findings {
        let sign = if found.refuses { '✗' } else { '!' };
        let times = if found.count > 1 { format!(", {} times", grouped(found.count)) } else { String::new() };
        page.raw(&format!(
            "  {sign} {} (byte {}{times}): {}",
            found.finding,
            grouped(found.at),
            found.meaning
        ));
    }
    match (item.restorable, item.findings.is_empty()) {
        (true, true) => page.raw("  ✓ a whole item, nothing to remark"),
        (true, false) => page.raw("  ✓ would be restored; refused only by `preflight: strict`"),
        (false, _) => page.raw("  ✗ would not be restored"),
    }
}

fn properties(count: u64) -> String {
    if count == 1 { "1 property".into() } else { format!("{} properties", grouped(count)) }
}

fn count(count: u64, what: &str) -> String {
    format!("{} {what}{}", grouped(count), if count == 1 { "" } else { "s" })
}

/// `2010-03-31 21:14:04 UTC`.
fn moment(rfc3339: &str) -> String {
    let seconds = rfc3339.split(['.', 'Z']).next().unwrap_or(rfc3339);
    format!("{} UTC", seconds.replace('T', " "))
}

/// Thousands apart.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `1.5 MiB`.
fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let (mut tenths, mut unit) = (u128::from(bytes) * 10 / 1024, 0);
    while tenths >= 10_240 && unit + 1 < UNITS.len() {
        tenths /= 1024;
        unit += 1;
    }
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_readable() {
        assert_eq!(
            (grouped(0), grouped(1_234), grouped(123_456_789)),
            ("0".into(), "1,234".into(), "123,456,789".into())
        );
        for (number, text) in
            [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1536, "1.5 KiB"), (157_286_400, "150.0 MiB")]
        {
            assert_eq!(bytes(number), text);
        }
    }

    #[test]
    fn a_subject_cannot_play_with_the_terminal() {
        assert_eq!(clean("a\u{1b}[31mb\nc\u{202e}d"), "a·[31mb·c·d");
        assert!(clean(&"x".repeat(5_000)).chars().count() <= 201);
    }
}
