//! Every fault, through a real client.

use super::super::{Answer, Cut, Effect, Fault, Gate, Meanwhile, Operation, UrlTwist, When};
use super::*;

impl Stage {
    fn break_import(&self, effect: Effect) -> Result<()> {
        self.exchange.add_fault(Fault::new(Operation::Import, effect))?;
        Ok(())
    }

    /// Creates an item that meets this fault, and gives the answer and whether it was stored.
    async fn meet(&self, effect: Effect) -> Result<(Result<Response, reqwest::Error>, bool)> {
        let url = self.session(MAILBOX).await?;
        let before = self.keys().len();
        let name = effect.name();
        self.break_import(effect)?;
        let answer = self.post(&url, &create("k")).send().await;
        assert_eq!(self.exchange.fired_by_name().get(name), Some(&1), "{name}");
        Ok((answer, self.keys().len() > before))
    }
}

#[tokio::test]
async fn refusals_by_script_store_nothing() -> Result<()> {
    let stage = Stage::new().await?;
    let (answer, stored) = stage.meet(Effect::Refuse(Answer::status(503).header("retry-after", "5"))).await?;
    assert_eq!((answer?.status().as_u16(), stored), (503, false));
    let (answer, stored) =
        stage.meet(Effect::RefuseAfterBody(Answer::error(500, "ErrorInternal", "x"))).await?;
    assert_eq!((answer?.status().as_u16(), stored), (500, false));
    stage.no_violations()
}

#[tokio::test]
async fn cuts_before_the_end_store_nothing() -> Result<()> {
    for cut in [Cut::Close, Cut::Reset] {
        let stage = Stage::new().await?;
        for effect in [Effect::CutBeforeBody(cut), Effect::CutInBody { after: 1, cut }] {
            let (answer, stored) = stage.meet(effect).await?;
            assert!(answer.is_err() && !stored, "{answer:?}");
        }
        assert_eq!(stage.exchange.count(Operation::Import, 0), 2);
        stage.no_violations()?;
    }
    Ok(())
}

#[tokio::test]
async fn troubles_after_the_item_was_stored() -> Result<()> {
    let stage = Stage::new().await?;
    let (answer, stored) = stage.meet(Effect::AnswerInstead(Answer::status(502))).await?;
    assert_eq!((answer?.status().as_u16(), stored), (502, true));
    let (answer, stored) = stage.meet(Effect::CutAfter(Cut::Reset)).await?;
    assert!(answer.is_err() && stored);
    let (answer, stored) = stage.meet(Effect::HalfAnswer).await?;
    let answer = answer?;
    assert_eq!(answer.status(), 200);
    assert!(answer.text().await.is_err() && stored);
    let (answer, stored) = stage.meet(Effect::WithoutItemId).await?;
    let answer = json_of(answer?).await?;
    assert!(answer.get("itemId").is_none() && answer.get("changeKey").is_some() && stored);
    let (answer, stored) = stage.meet(Effect::PascalCase).await?;
    let answer = json_of(answer?).await?;
    assert!(answer.get("ItemId").is_some() && answer.get("itemId").is_none() && stored);
    let (answer, stored) = stage.meet(Effect::NotJson).await?;
    assert!(answer?.text().await?.starts_with("<html>") && stored);
    let (answer, stored) = stage.meet(Effect::HugeAnswer { bytes: 5_000_000 }).await?;
    assert_eq!((answer?.bytes().await?.len(), stored), (5_000_000, true));
    stage.no_violations()
}

#[tokio::test]
async fn a_connection_closed_after_the_item_was_stored_ends_in_order() -> Result<()> {
    let stage = Stage::new().await?;
    let (answer, stored) = stage.meet(Effect::CutAfter(Cut::Close)).await?;
    assert!(answer.is_err() && stored);
    stage.no_violations()
}

#[tokio::test]
async fn silence_lasts_until_the_client_gives_up() -> Result<()> {
    let stage = Stage::new().await?;
    let url = stage.session(MAILBOX).await?;
    stage.break_import(Effect::Silence)?;
    let request = tokio::spawn(stage.post(&url, &create("k")).send());
    stage.exchange.until(|exchange| exchange.count(Operation::Import, 0) == 1).await;
    assert_eq!(stage.keys(), ["k"]);
    request.abort();
    stage.exchange.until(|exchange| exchange.usage(APP, MAILBOX).at_work == 0).await;
    stage.no_violations()
}

#[tokio::test]
async fn an_item_is_stored_after_the_client_was_left_alone() -> Result<()> {
    let stage = Stage::new().await?;
    for (meanwhile, count) in [(Meanwhile::Cut(Cut::Close), 1), (Meanwhile::Cut(Cut::Reset), 2)] {
        let gate = Gate::new();
        let (answer, stored) =
            stage.meet_late(Effect::LateCommit { when: When::Open(gate.clone()), meanwhile }).await?;
        assert!(answer.is_err() && !stored);
        assert_eq!(stage.exchange.pending_commits(), 1);
        gate.open();
        stage.exchange.until(|exchange| exchange.pending_commits() == 0).await;
        assert_eq!(stage.keys().len(), count);
    }
    let when = When::After(Duration::from_millis(20));
    let (answer, stored) =
        stage.meet_late(Effect::LateCommit { when, meanwhile: Meanwhile::Timeout }).await?;
    assert_eq!((answer?.status().as_u16(), stored), (504, false));
    stage.exchange.until(|exchange| exchange.items(MAILBOX).len() == 3).await;
    stage.no_violations()
}

impl Stage {
    async fn meet_late(&self, effect: Effect) -> Result<(Result<Response, reqwest::Error>, bool)> {
        let url = self.session(MAILBOX).await?;
        let before = self.keys().len();
        self.break_import(effect)?;
        let answer = self.post(&url, &create("k")).send().await;
        Ok((answer, self.keys().len() > before))
    }
}

#[tokio::test]
async fn a_session_ends_before_its_time() -> Result<()> {
    for status in [401, 403, 404, 410] {
        let stage = Stage::new().await?;
        let url = stage.session(MAILBOX).await?;
        stage.break_import(Effect::EndSession { status })?;
        assert_eq!(stage.post(&url, &create("k")).send().await?.status(), status);
        assert_eq!(stage.post(&url, &create("k")).send().await?.status(), 401, "it stays ended");
        assert_eq!(stage.create("k").await?.status(), 200);
        stage.no_violations()?;
    }
    Ok(())
}

#[tokio::test]
async fn a_redirect_and_its_body() -> Result<()> {
    let stage = Stage::new().await?;
    let (answer, stored) =
        stage.meet(Effect::Refuse(Answer::redirect(307, "https://elsewhere.invalid/"))).await?;
    let answer = answer?;
    assert_eq!((answer.status().as_u16(), stored), (307, false));
    assert!(answer.headers().contains_key("location"));
    stage.no_violations()
}

#[tokio::test]
async fn the_next_request_on_the_connection_is_cut() -> Result<()> {
    for cut in [Cut::Close, Cut::Reset] {
        let stage = Stage::new().await?;
        let (answer, stored) = stage.meet(Effect::CutNextRequest(cut)).await?;
        let answer = answer?;
        let url = answer.url().to_string();
        assert_eq!((answer.status().as_u16(), stored), (200, true));
        answer.bytes().await?;
        assert!(stage.post(&url, &create("k")).send().await.is_err(), "{cut:?}");
        assert_eq!(stage.keys(), ["k"]);
        stage.no_violations()?;
    }
    Ok(())
}

#[tokio::test]
async fn odd_sessions() -> Result<()> {
    let stage = Stage::new().await?;
    let open = async |effect| -> Result<Value> {
        stage.exchange.add_fault(Fault::new(Operation::OpenSession, effect))?;
        json_of(stage.session_request("v1.0", MAILBOX).send().await?).await
    };
    assert_eq!(open(Effect::Expiration(Some("soon".into()))).await?["expirationDateTime"], "soon");
    assert!(open(Effect::Expiration(None)).await?.get("expirationDateTime").is_none());
    let url = open(Effect::ImportUrl(UrlTwist::Host("evil.invalid".into()))).await?;
    assert!(url["importUrl"].as_str().is_some_and(|u| u.starts_with("https://evil.invalid/api/gv1.0/")));
    let url = open(Effect::ImportUrl(UrlTwist::Http)).await?;
    assert!(url["importUrl"].as_str().is_some_and(|u| u.starts_with("http://localhost:")));
    assert_eq!(open(Effect::ImportUrl(UrlTwist::Exact("x".into()))).await?["importUrl"], "x");
    stage.exchange.add_fault(Fault::new(Operation::OpenSession, Effect::CutAfter(Cut::Close)))?;
    assert!(stage.session_request("v1.0", MAILBOX).send().await.is_err());
    stage.no_violations()
}

#[tokio::test]
async fn a_fault_meets_only_what_it_selects() -> Result<()> {
    let stage = Stage::new().await?;
    let url = stage.session(MAILBOX).await?;
    let other = stage.session(OTHER).await?;
    let trouble = || Fault::new(Operation::Import, Effect::AnswerInstead(Answer::status(500)));
    let id = stage.exchange.add_fault(trouble().mailbox(MAILBOX).search_key("b").skip(1).times(2))?;
    let mut seen = Vec::new();
    for key in ["a", "b", "b", "a", "b", "b"] {
        assert_eq!(stage.post(&other, &create(key)).send().await?.status(), 200);
        seen.push(stage.post(&url, &create(key)).send().await?.status().as_u16());
    }
    assert_eq!(seen, [200, 200, 500, 200, 500, 200]);
    assert_eq!(stage.exchange.fired(id), 2);
    let id = stage.exchange.add_fault(trouble().folder("other").always())?;
    assert_eq!(stage.post(&url, &create("a")).send().await?.status(), 200);
    stage.exchange.clear_fault(id);
    stage.exchange.add_fault(trouble().tenant("nobody").always())?;
    stage.exchange.add_fault(trouble().chance(0.0).always())?;
    assert_eq!(stage.post(&url, &create("a")).send().await?.status(), 200);
    stage.exchange.clear_faults();
    let early = Fault::new(Operation::Import, Effect::Refuse(Answer::status(500)));
    assert!(stage.exchange.add_fault(early.folder(FOLDER)).is_err());
    stage.no_violations()
}

#[tokio::test]
async fn latency_and_a_slow_reader() -> Result<()> {
    let stage = Stage::new().await?;
    let gate = Gate::new();
    let url = stage.session(MAILBOX).await?;
    stage.break_import(Effect::Wait(When::Open(gate.clone())))?;
    let request = tokio::spawn(stage.post(&url, &create("k")).send());
    gate.arrived(1).await;
    assert!(stage.keys().is_empty());
    gate.open();
    assert_eq!(request.await??.status(), 200);
    stage.break_import(Effect::SlowBody { bytes_per_second: 10_000 })?;
    let begun = tokio::time::Instant::now();
    assert_eq!(stage.post(&url, &create(&"k".repeat(1000))).send().await?.status(), 200);
    assert!(begun.elapsed() >= Duration::from_millis(100));
    stage.no_violations()
}

#[tokio::test]
async fn tokens_and_lists_fail_by_script_too() -> Result<()> {
    let stage = Stage::new().await?;
    for operation in [Operation::ListItems, Operation::ListFolders, Operation::ReadItem] {
        stage.exchange.add_fault(Fault::new(operation, Effect::Refuse(Answer::status(503))))?;
    }
    let items = format!("{MAILBOX}/folders/{FOLDER}/items");
    assert_eq!(stage.look(&items).await?.status(), 503);
    assert_eq!(stage.look(&items).await?.status(), 200);
    assert_eq!(stage.look(&format!("{MAILBOX}/folders")).await?.status(), 503);
    assert_eq!(stage.look(&format!("{items}/x")).await?.status(), 503);
    stage.exchange.add_fault(Fault::new(Operation::Token, Effect::Refuse(Answer::status(503))))?;
    let url = format!("{}/{TENANT}/oauth2/v2.0/token", stage.exchange.login_url());
    assert_eq!(stage.client.post(url).body("x").send().await?.status(), 503);
    stage.no_violations()
}

#[tokio::test]
async fn a_snapshot_tells_everything() -> Result<()> {
    let stage = Stage::new().await?;
    stage.create("k").await?;
    let snapshot = stage.exchange.snapshot();
    assert_eq!(snapshot["mailboxes"][MAILBOX]["items"][0]["search_key"], "6b");
    assert_eq!(snapshot["pendingCommits"], 0);
    assert_eq!(snapshot["violations"], json!([]));
    assert!(snapshot["counts"].as_array().is_some_and(|counts| counts.len() == 2), "{snapshot}");
    Ok(())
}
