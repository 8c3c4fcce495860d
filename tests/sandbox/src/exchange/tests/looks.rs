//! Looks at folders and items.

use super::*;

const KEY: &str = "$expand=singleValueExtendedProperties($filter=id eq 'Binary 0x300B' or id eq 'String 0x0037' or id eq 'SystemTime 0x0E06' or id eq 'String 0x1035')";

fn items(query: &str) -> String {
    let query = query.replace(' ', "%20").replace('\'', "%27");
    format!("{MAILBOX}/folders/{FOLDER}/items?{query}")
}

#[tokio::test]
async fn an_imported_item_is_found_by_time_and_key() -> Result<()> {
    let stage = Stage::new().await?;
    let (old, _) = stage.exchange.add_item(MAILBOX, FOLDER, ItemFacts::default(), b"old");
    stage.exchange.shift_item(MAILBOX, &old, -86_400_000);
    let before = super::super::text::whole_seconds(stage.exchange.shared.world().now_ms());
    let imported = json_of(stage.create("key").await?).await?;
    let answer =
        json_of(stage.look(&items(&format!("$filter=createdDateTime ge {before}&{KEY}"))).await?).await?;
    let [found] = answer["value"].as_array().map(Vec::as_slice).context("no list")? else {
        anyhow::bail!("{answer}");
    };
    assert_eq!((&found["id"], &found["changeKey"]), (&imported["itemId"], &imported["changeKey"]));
    let want = json!([
        {"id": "Binary 0x300b", "value": STANDARD.encode("key")},
        {"id": "String 0x37", "value": "a subject"},
        {"id": "SystemTime 0xe06", "value": "2023-11-14T22:13:20Z"},
        {"id": "String 0x1035", "value": "<1@example>"},
    ]);
    assert_eq!(found["singleValueExtendedProperties"], want);
    assert!(found["createdDateTime"].as_str().is_some_and(|t| t.ends_with('Z') && !t.contains('.')));
    let all = json_of(stage.look(&items("$select=id,size&$count=true")).await?).await?;
    assert_eq!(all["@odata.count"], 2);
    assert_eq!(all["value"][0]["size"], 3);
    assert!(all["value"][0].get("type").is_none());
    stage.no_violations()
}

#[tokio::test]
async fn a_list_comes_in_pages() -> Result<()> {
    let stage = Stage::new().await?;
    for _ in 0..25 {
        stage.exchange.add_item(MAILBOX, FOLDER, ItemFacts::default(), b"x");
    }
    let mut page =
        json_of(stage.look(&items("$filter=createdDateTime ge 2020-01-01T00:00:00Z&$select=id")).await?)
            .await?;
    let mut seen = Vec::new();
    loop {
        let ids = page["value"].as_array().context("no list")?;
        assert!(ids.len() <= 10);
        seen.extend(ids.iter().map(|item| item["id"].to_string()));
        let Some(next) = page["@odata.nextLink"].as_str() else { break };
        page = json_of(stage.client.get(next).bearer_auth(&stage.token).send().await?).await?;
    }
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 25);
    let one = json_of(stage.look(&items("$top=20&$skip=20")).await?).await?;
    assert_eq!(one["value"].as_array().map(Vec::len), Some(5));
    stage.no_violations()
}

#[tokio::test]
async fn one_item_is_read_in_its_folder_only() -> Result<()> {
    let stage = Stage::new().await?;
    stage.exchange.add_folder(MAILBOX, "other");
    let (id, key) = stage.exchange.add_item(MAILBOX, FOLDER, ItemFacts::default(), b"x");
    let answer = json_of(stage.look(&format!("{MAILBOX}/folders/{FOLDER}/items/{id}")).await?).await?;
    assert_eq!(answer["changeKey"], json!(key));
    for path in [
        format!("{MAILBOX}/folders/other/items/{id}"),
        format!("{MAILBOX}/folders/{FOLDER}/items/none"),
        format!("{MAILBOX}/folders/none/items"),
        "MBX:none/folders".to_owned(),
    ] {
        assert_eq!(stage.look(&path).await?.status(), 404, "{path}");
    }
    let folders = json_of(stage.look(&format!("{MAILBOX}/folders")).await?).await?;
    assert_eq!(folders["value"].as_array().map(Vec::len), Some(2));
    stage.no_violations()
}

#[tokio::test]
async fn looking_needs_its_own_role() -> Result<()> {
    let mut stage = Stage::new().await?;
    stage.token =
        stage.exchange.issue_token(TENANT, APP, &["MailboxItem.ImportExport.All"], Duration::from_mins(1));
    assert_eq!(stage.look(&items("")).await?.status(), 403);
    stage.token =
        stage.exchange.issue_token(TENANT, APP, &["MailboxItem.ReadWrite.All"], Duration::from_mins(1));
    assert_eq!(stage.look(&items("")).await?.status(), 200);
    stage.no_violations()
}

#[tokio::test]
async fn what_cannot_be_asked_is_a_violation() -> Result<()> {
    let stage = Stage::new().await?;
    let binary = "$filter=singleValueExtendedProperties/any(ep: ep/id eq 'Binary 0x300B')";
    assert_eq!(stage.look(&items(binary)).await?.status(), 400);
    stage.one_violation("cannot be used in $filter")?;
    assert_eq!(stage.look(&format!("{MAILBOX}/messages")).await?.status(), 404);
    assert_eq!(stage.exchange.violations().len(), 2);
    Ok(())
}

#[tokio::test]
async fn a_list_may_lag_and_may_not_combine() -> Result<()> {
    let options =
        Options { list_delay: Duration::from_hours(1), filter_with_expand: false, ..Options::default() };
    let stage = Stage::with(options).await?;
    stage.create("k").await?;
    let answer = json_of(stage.look(&items("")).await?).await?;
    assert_eq!(answer["value"], json!([]));
    let both = format!("$filter=createdDateTime ge 2020-01-01&{KEY}");
    assert_eq!(stage.look(&items(&both)).await?.status(), 400);
    stage.no_violations()
}
