//! The runbook: an entry for each alert of the chart and each reason code, complete, and reached by the alert's own link.

use std::collections::BTreeSet;

use restore_worker::domain::Reason;

use crate::chart;

const RUNBOOK: &str = include_str!("../../docs/runbook.md");

/// What every entry says.
const PARTS: [&str; 4] = ["- **Means**: ", "- **Look at**: ", "- **Do**: ", "- **Is anything lost?** "];

/// The entries of a chapter: heading and text.
fn entries(chapter: &str) -> Vec<(String, String)> {
    let text = RUNBOOK.split(&format!("\n# {chapter}\n")).nth(1).expect("the chapter is there");
    let text = text.split("\n# ").next().expect("text");
    let entry = |text: &str| {
        let (heading, body) = text.split_once('\n').expect("a heading");
        (heading.trim().to_owned(), body.to_owned())
    };
    text.split("\n## ").skip(1).map(entry).collect()
}

fn headings(chapter: &str) -> BTreeSet<String> {
    entries(chapter).into_iter().map(|(heading, _)| heading).collect()
}

#[test]
fn every_reason_has_its_entry() {
    let reasons: BTreeSet<_> = Reason::ALL.iter().map(|reason| reason.as_str().to_owned()).collect();
    assert_eq!(headings("Reason codes"), reasons);
}

#[test]
fn every_alert_has_its_entry_and_leads_there() {
    let alerts = chart::alerts();
    assert_eq!(headings("Alerts"), alerts.iter().map(|(name, _)| name.clone()).collect());
    let entries = entries("Alerts");
    for (name, rule) in &alerts {
        let link = format!("docs/runbook.md#{}", name.to_lowercase());
        assert_eq!(rule["annotations"]["runbook_url"], *link, "{name}");
        let severity = rule["labels"]["severity"].as_str().expect("a severity");
        let (_, body) = entries.iter().find(|(heading, _)| heading == name).expect("an entry");
        assert!(body.contains(&format!("Severity: {severity}.")), "{name} is {severity}");
    }
}

#[test]
fn every_entry_is_complete() {
    for (heading, body) in entries("Alerts").into_iter().chain(entries("Reason codes")) {
        for part in PARTS {
            let said = body.lines().any(|line| line.strip_prefix(part).is_some_and(|text| text.len() > 3));
            assert!(said, "{heading}: {part}");
        }
    }
}

#[test]
fn links_inside_lead_somewhere() {
    let anchors: BTreeSet<_> =
        RUNBOOK.lines().filter_map(|l| l.strip_prefix("## ")).map(str::to_lowercase).collect();
    for target in RUNBOOK.split("](#").skip(1).filter_map(|text| text.split(')').next()) {
        assert!(anchors.contains(target), "#{target}");
    }
}
