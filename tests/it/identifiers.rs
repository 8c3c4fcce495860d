//! `log.identifiers: hashed`: mailbox, folder and key are nowhere in the log, at any level, however a job ends.

use anyhow::Result;
use restore_sandbox::{
    exchange::{Answer, Effect, Fault, Operation},
    fts::ItemSpec,
    stack::{FOLDER, create_job},
};
use serde_json::json;

use crate::support::{binary, quick_and, stack};

#[tokio::test(flavor = "multi_thread")]
async fn hashed_identifiers_are_hashed_everywhere() -> Result<()> {
    let stack = stack("hashed_identifiers").await?;
    let settings = [("LOG__IDENTIFIERS", "hashed"), ("LOG__LEVEL", "trace"), ("RETRY__ATTEMPTS", "2")];
    let mut worker = stack.worker(binary(), &quick_and(&settings)).await?;
    let mut emitter = stack.emitter().await?;
    let (anna, away) =
        (stack.mailbox("anna-hidden"), format!("MBX:away-hidden@{}", restore_sandbox::stack::TENANT));
    stack.store("key-hidden.fts", &ItemSpec::mail(1, 4_000));
    stack.s3.put(restore_sandbox::stack::BLOBS, "key-hidden.bad", bytes::Bytes::from_static(b"no FTS"));
    let import = |effect| Fault::new(Operation::Import, effect).mailbox(&anna);
    // The first two imports: refused for the moment; without an answer, so that the worker looks.
    stack.exchange.add_fault(import(Effect::Refuse(Answer::status(503))))?;
    stack.exchange.add_fault(import(Effect::RefuseAfterBody(Answer::status(504))))?;
    let mut folder = create_job("folder", &anna, "key-hidden.fts");
    folder["folderId"] = json!("Zm9sZGVyLWhpZGRlbg==");
    let mut corrupt = create_job("corrupt", &anna, "key-hidden.fts");
    corrupt["blob"]["sha256"] = json!("ab".repeat(32));
    let mut malformed = create_job("malformed", &anna, "key-hidden.fts");
    malformed["typingError"] = json!(1);
    let jobs = [
        create_job("good", &anna, "key-hidden.fts"),
        create_job("missing", &anna, "missing-key-hidden.fts"),
        create_job("no-fts", &anna, "key-hidden.bad"),
        create_job("mailbox", &away, "key-hidden.fts"),
        folder,
        corrupt,
        malformed,
    ];
    for job in &jobs {
        emitter.publish(job).await?;
    }
    emitter.results_of(jobs.len()).await?;
    assert!(worker.terminate().await?.success());
    let log = worker.output();
    for hidden in ["hidden", "Zm9sZGVyLWhpZGRlbg", FOLDER] {
        let lines: Vec<_> = log.lines().filter(|line| line.contains(hidden)).collect();
        assert_eq!(lines, Vec::<&str>::new(), "{hidden} is in the log");
    }
    let ended = worker.log_lines().into_iter().filter(|line| line["message"] == "job ended");
    for line in ended {
        for field in ["mailbox", "folder", "key"] {
            let text = line[field].as_str().unwrap_or_default();
            assert!(text.len() == 16 && text.bytes().all(|b| b.is_ascii_hexdigit()), "{field}: {line:#}");
        }
    }
    Ok(())
}
