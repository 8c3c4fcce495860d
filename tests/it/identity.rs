//! Who the worker is: each kind of identity with the real binary, its secrets rotated, missing, refused; what is told, and
//! what never is.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use p12_keystore::{KeyStore, KeyStoreEntry, PrivateKeyChain};
use restore_sandbox::{
    emitter::Emitter,
    exchange::{ALL_ROLES, Answer, ClientCertificate, Effect, Fault, Gate, Operation, ROLE_READ, When},
    fts::ItemSpec,
    stack::{CLIENT_ID, CLIENT_SECRET, FOLDER, Stack, TENANT, create_job},
    worker::Worker,
};
use rustls::pki_types::{PrivateKeyDer, pem::PemObject as _};
use serde_json::{Value, json};

use crate::support::{self, binary, stack};

const OTHER: &str = "a7809c93-0000-4000-8000-000000000002";
const OURS: &str = "RESTORE_WORKER__IDENTITY__";

/// The stack's variables, but for those of identity: our own keys (`KIND`) instead, and foreign variables (`AZURE_…`).
fn variables(stack: &Stack, own: &[(&str, &str)], foreign: &[(&str, &str)]) -> BTreeMap<String, String> {
    let mut variables = stack.variables();
    variables.retain(|name, _| !name.starts_with(OURS));
    variables.extend(own.iter().map(|(key, value)| (format!("{OURS}{key}"), (*value).to_owned())));
    variables.extend(foreign.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    variables
}

/// Where the application signs in.
fn place(stack: &Stack) -> [(&str, &str); 3] {
    [("TENANT_ID", TENANT), ("CLIENT_ID", CLIENT_ID), ("AUTHORITY", stack.exchange.login_url())]
}

fn placed<'a>(stack: &'a Stack, more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    place(stack).into_iter().chain(more.iter().copied()).collect()
}

/// A worker that has become ready.
async fn worker(stack: &Stack, own: &[(&str, &str)], foreign: &[(&str, &str)]) -> Result<Worker> {
    let mut worker = Worker::spawn(binary(), &variables(stack, own, foreign), &stack.log())?;
    worker.ready().await?;
    Ok(worker)
}

/// A worker that ends before it is ready: its exit code, and what it said.
async fn ends(stack: &Stack, own: &[(&str, &str)], foreign: &[(&str, &str)]) -> Result<(i32, String)> {
    let (code, said) = support::ends(stack, variables(stack, own, foreign)).await?;
    Ok((code.context("an exit code")?, said))
}

/// A job for a mailbox of its own, so that a session has to be opened for it.
fn job(stack: &Stack, id: &str) -> Value {
    stack.store("item", &ItemSpec::mail(1, 4_000));
    create_job(id, &stack.mailbox(id), "item")
}

/// The same in another tenant.
fn job_of(stack: &Stack, tenant: &str, id: &str) -> Value {
    let mailbox = format!("MBX:{id}@{tenant}");
    stack.exchange.add_mailbox(tenant, &mailbox);
    stack.exchange.add_folder(&mailbox, FOLDER);
    let mut job = job(stack, id);
    job["tenantId"] = json!(tenant);
    job["mailboxId"] = json!(mailbox);
    job
}

/// The next event, which is of this job and says this: `succeeded`, or a reason.
async fn told(emitter: &mut Emitter, worker: &Worker, id: &str, end: &str) -> Result<Value> {
    let told = emitter.next_result().await.with_context(|| worker.output())?.json()?;
    let said = told["error"]["code"].as_str().or(told["status"].as_str());
    ensure!(told["jobId"] == id && said == Some(end), "{told:#}\n{}", worker.output());
    Ok(told)
}

async fn restores(stack: &Stack, emitter: &mut Emitter, worker: &Worker, id: &str) -> Result<()> {
    emitter.publish(&job(stack, id)).await?;
    told(emitter, worker, id, "succeeded").await.map(drop)
}

/// Nothing secret in what the worker printed.
fn keeps_secrets(stack: &Stack, output: &str, more: &[&str]) {
    let mut secrets = stack.exchange.secrets();
    secrets.extend(more.iter().map(|secret| (*secret).to_owned()));
    for secret in secrets {
        assert!(!output.contains(&secret), "{secret:.12}… was printed:\n{output}");
    }
}

/// A worker drains, and has printed nothing secret.
async fn ends_well(stack: &Stack, mut worker: Worker, more: &[&str]) -> Result<()> {
    assert!(worker.terminate().await?.success());
    keeps_secrets(stack, &worker.output(), more);
    Ok(())
}

fn file(stack: &Stack, name: &str, content: impl AsRef<[u8]>) -> Result<PathBuf> {
    let path = stack.dir().join(name);
    fs::write(&path, content)?;
    Ok(path)
}

/// Puts another content in a file's place, as those that rotate secrets do.
fn rotate(path: &Path, content: &str) -> Result<()> {
    let new = path.with_extension("new");
    fs::write(&new, content)?;
    fs::rename(&new, path).context("rename")
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is text")
}

fn pem(certificate: &ClientCertificate) -> String {
    format!("{}{}", certificate.certificate_pem, certificate.key_pem)
}

fn pkcs12(certificate: &ClientCertificate, password: &str) -> Result<Vec<u8>> {
    let leaf = p12_keystore::Certificate::from_der(&certificate.der)?;
    let key = PrivateKeyDer::from_pem_slice(certificate.key_pem.as_bytes())?;
    let mut store = KeyStore::new();
    let chain = PrivateKeyChain::new(key.secret_der(), b"id", [leaf]);
    store.add_entry("worker", KeyStoreEntry::PrivateKeyChain(chain));
    Ok(store.writer(password).write()?)
}

/// The same by OpenSSL, where it is installed.
fn pkcs12_by_openssl(pem: &Path, password: &Path, out: &Path) -> Result<bool> {
    let export = Command::new("openssl")
        .args(["pkcs12", "-export", "-in", text(pem)?, "-out", text(out)?])
        .args(["-passout", &format!("file:{}", text(password)?)])
        .output();
    Ok(export.is_ok_and(|done| done.status.success()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_signs_in_from_pem_and_from_pkcs12() -> Result<()> {
    const PASSWORD: &str = "pass~word~of~the~certificate";
    let stack = stack("identity_certificate").await?;
    stack.exchange.revoke_secret(CLIENT_ID);
    let made = ClientCertificate::generate()?;
    stack.exchange.add_certificate(CLIENT_ID, &made.der)?;
    let password = file(&stack, "password", format!("{PASSWORD}\n"))?;
    let pem = file(&stack, "pem", pem(&made))?;
    let mut files = vec![(pem.clone(), false), (file(&stack, "p12", pkcs12(&made, PASSWORD)?)?, true)];
    let other = stack.dir().join("openssl.p12");
    if pkcs12_by_openssl(&pem, &password, &other)? {
        files.push((other, true));
    }
    let mut emitter = stack.emitter().await?;
    let key = made.key_pem.lines().nth(1).context("a key")?;
    for (n, (path, with_password)) in files.iter().enumerate() {
        let mut own = placed(&stack, &[("KIND", "certificate"), ("CERTIFICATE_FILE", text(path)?)]);
        if *with_password {
            own.push(("CERTIFICATE_PASSWORD_FILE", text(&password)?));
        }
        let mut worker = worker(&stack, &own, &[]).await?;
        restores(&stack, &mut emitter, &worker, &format!("certificate-{n}")).await?;
        assert!(worker.metric("restore_credential_expiry_timestamp_seconds", &["certificate"]).await? > 0.0);
        ends_well(&stack, worker, &[PASSWORD, key]).await?;
    }
    assert_eq!(stack.exchange.count(Operation::Token, 200), files.len() as u64);
    let own =
        placed(&stack, &[("CERTIFICATE_FILE", text(&files[1].0)?), ("CERTIFICATE_PASSWORD", "another")]);
    let (code, said) = ends(&stack, &own, &[]).await?;
    assert_eq!(code, 77, "{said}");
    assert!(said.contains("its password is another"), "{said}");
    assert_eq!(stack.exchange.violations(), Vec::<String>::new());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_sign_in_ends_the_start_and_says_why() -> Result<()> {
    // A JWT that nobody knows.
    const ASSERTION: &str =
        "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJodHRwczovL25vYm9keS5leGFtcGxlIn0.bm9ib2R5LWtub3dz";
    let stack = stack("identity_refused").await?;
    let (expired, unknown) = (ClientCertificate::expired()?, ClientCertificate::generate()?);
    stack.exchange.add_certificate(CLIENT_ID, &expired.der)?;
    stack.exchange.set_managed_identity(TENANT, CLIENT_ID);
    let expired = file(&stack, "expired", pem(&expired))?;
    let unknown = file(&stack, "unknown", pem(&unknown))?;
    let federated = file(&stack, "federated", ASSERTION)?;
    let secret = file(&stack, "secret", "not~the~secret")?;
    let missing = stack.dir().join("missing");
    let ended = stack.exchange.issue_token(TENANT, CLIENT_ID, &ALL_ROLES, Duration::ZERO);
    let ended = file(&stack, "ended", ended)?;
    let endpoint = format!("{}/msi/token", stack.exchange.identity_url());
    let msi = [("IDENTITY_ENDPOINT", &*endpoint), ("IDENTITY_HEADER", stack.exchange.identity_header())];
    let path = format!("{}/common", stack.exchange.login_url());
    let nowhere = "https://localhost:1";
    for (name, own, foreign, code, says) in [
        ("expired certificate", vec![("CERTIFICATE_FILE", text(&expired)?)], &[][..], 77, "has expired"),
        ("unknown certificate", vec![("CERTIFICATE_FILE", text(&unknown)?)], &[], 77, "AADSTS700027"),
        ("no certificate", vec![("CERTIFICATE_FILE", text(&missing)?)], &[], 77, "missing cannot be read"),
        (
            "unknown assertion",
            vec![("KIND", "workload_identity")],
            &[("AZURE_FEDERATED_TOKEN_FILE", text(&federated)?)],
            77,
            "AADSTS70021",
        ),
        ("wrong secret", vec![("CLIENT_SECRET_FILE", text(&secret)?)], &[], 77, "AADSTS7000215"),
        ("no secret file", vec![("CLIENT_SECRET_FILE", text(&missing)?)], &[], 77, "missing cannot be read"),
        ("token that has ended", vec![("TOKEN_FILE", text(&ended)?)], &[], 77, "has ended"),
        (
            "another's machine",
            vec![("KIND", "managed_identity"), ("CLIENT_ID", "nobody")],
            &msi,
            77,
            "has not been assigned",
        ),
        ("no secret at all", vec![("KIND", "client_secret")], &[], 78, "identity.client_secret: missing"),
        (
            "authority with a path",
            vec![("CLIENT_SECRET", CLIENT_SECRET), ("AUTHORITY", &path)],
            &[],
            78,
            "must be an https URL of a host alone",
        ),
        (
            "authority that is no sign-in host",
            vec![("CLIENT_SECRET", CLIENT_SECRET), ("AUTHORITY", stack.exchange.graph_url())],
            &[],
            77,
            "no token was issued",
        ),
        (
            "authority that is away",
            vec![("CLIENT_SECRET", CLIENT_SECRET), ("AUTHORITY", nowhere)],
            &[],
            69,
            "startup.wait is over",
        ),
    ] {
        let (ended, said) = ends(&stack, &placed(&stack, &own), foreign).await?;
        assert_eq!(ended, code, "{name}: {said}");
        assert!(said.contains(says), "{name}: {said}");
        keeps_secrets(&stack, &said, &[ASSERTION, "not~the~secret"]);
    }
    assert_eq!(stack.exchange.count(Operation::Token, 200), 0);
    let astray = stack.exchange.violations();
    assert!(
        !astray.is_empty() && astray.iter().all(|what| what.starts_with("Graph: unknown request")),
        "{astray:?}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_and_an_assertion_are_read_again_from_their_files() -> Result<()> {
    let stack = stack("identity_rotated").await?;
    let secret = file(&stack, "secret", CLIENT_SECRET)?;
    let federated = file(&stack, "federated", "federated~one")?;
    stack.exchange.add_federated_token(CLIENT_ID, "federated~one");
    let mut emitter = stack.emitter().await?;
    let foreign = [("AZURE_FEDERATED_TOKEN_FILE", text(&federated)?)];
    let retire_secret = || {
        stack.exchange.revoke_secret(CLIENT_ID);
        stack.exchange.add_app(CLIENT_ID, "secret~two");
    };
    let retire_assertion = || {
        stack.exchange.remove_federated_token(CLIENT_ID, "federated~one");
        stack.exchange.add_federated_token(CLIENT_ID, "federated~two");
    };
    // Whoever writes such files with a shell ends them with a line's end.
    let kinds: [(_, Vec<_>, _, _, &dyn Fn()); 2] = [
        ("secret", vec![("CLIENT_SECRET_FILE", text(&secret)?)], &secret, "secret~two", &retire_secret),
        ("federated", vec![("KIND", "workload_identity")], &federated, "federated~two", &retire_assertion),
    ];
    for (name, own, path, new, retire) in kinds {
        let mut worker = worker(&stack, &placed(&stack, &own), &foreign).await?;
        restores(&stack, &mut emitter, &worker, &format!("{name}-one")).await?;
        rotate(path, &format!("{new}\n"))?;
        retire();
        stack.exchange.invalidate_tokens();
        restores(&stack, &mut emitter, &worker, &format!("{name}-two")).await?;
        // A rotation in which the file is gone for a while is waited for.
        fs::remove_file(path)?;
        stack.exchange.invalidate_tokens();
        emitter.publish(&job(&stack, &format!("{name}-three"))).await?;
        worker.logs("everything is paused").await?;
        worker.unready().await?;
        rotate(path, new)?;
        let end = told(&mut emitter, &worker, &format!("{name}-three"), "succeeded").await?;
        assert_eq!(end["attempts"], 1, "our own trouble costs nobody an attempt: {end:#}");
        worker.ready().await?;
        ends_well(&stack, worker, &[]).await?;
    }
    assert_eq!(stack.exchange.violations(), Vec::<String>::new());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_has_an_identity_of_its_own_or_one_assigned() -> Result<()> {
    let stack = stack("identity_managed").await?;
    stack.exchange.revoke_secret(CLIENT_ID);
    stack.exchange.set_managed_identity(TENANT, CLIENT_ID);
    let imds = [("AZURE_POD_IDENTITY_AUTHORITY_HOST", stack.exchange.identity_url())];
    let endpoint = format!("{}/msi/token", stack.exchange.identity_url());
    let service = [("IDENTITY_ENDPOINT", &*endpoint), ("IDENTITY_HEADER", stack.exchange.identity_header())];
    let system = [("KIND", "managed_identity"), ("TENANT_ID", TENANT)];
    let user = [system[0], system[1], ("CLIENT_ID", CLIENT_ID)];
    let mut emitter = stack.emitter().await?;
    for (name, own, foreign) in [
        ("system-service", &system[..], &service[..]),
        ("user-service", &user, &service),
        ("system-imds", &system, &imds),
        ("user-imds", &user, &imds),
    ] {
        let worker = worker(&stack, own, foreign).await?;
        restores(&stack, &mut emitter, &worker, name).await?;
        // It is one tenant's, whatever a job says.
        emitter.publish(&job_of(&stack, OTHER, &format!("{name}-other"))).await?;
        told(&mut emitter, &worker, &format!("{name}-other"), "tenant_not_allowed").await?;
        ends_well(&stack, worker, &[stack.exchange.identity_header()]).await?;
    }
    assert_eq!(stack.exchange.count(Operation::ManagedIdentity, 200), 4);
    assert_eq!(stack.exchange.requests(Operation::Token), 0);
    assert_eq!(stack.exchange.violations(), Vec::<String>::new());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_metadata_service_that_is_updated_is_asked_again() -> Result<()> {
    let stack = stack("identity_metadata").await?;
    stack.exchange.set_managed_identity(TENANT, CLIENT_ID);
    let own = [("KIND", "managed_identity"), ("TENANT_ID", TENANT)];
    let place = "AZURE_POD_IDENTITY_AUTHORITY_HOST";
    for (before, status) in (0..).zip([410, 429, 503]) {
        let busy = Effect::Refuse(Answer::status(status));
        stack.exchange.add_fault(Fault::new(Operation::ManagedIdentity, busy).skip(before))?;
    }
    let mut emitter = stack.emitter().await?;
    let mut asking = worker(&stack, &own, &[(place, stack.exchange.identity_url())]).await?;
    restores(&stack, &mut emitter, &asking, "after-all").await?;
    assert!(asking.terminate().await?.success());
    for status in [410, 429, 503, 200] {
        assert_eq!(stack.exchange.count(Operation::ManagedIdentity, status), 1, "{status}");
    }
    assert_eq!(stack.exchange.violations(), Vec::<String>::new());
    for far in ["http://10.0.0.1", "https://127.0.0.1", "http://metadata.example"] {
        let (code, said) = ends(&stack, &own, &[(place, far)]).await?;
        assert!(code == 78 && said.contains(place), "{far}: {code} {said}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_file_is_replaced_vanishes_and_may_not_suffice() -> Result<()> {
    let stack = stack("identity_token_file").await?;
    let hour = Duration::from_hours(1);
    let token = |roles: &[&str]| stack.exchange.issue_token(TENANT, CLIENT_ID, roles, hour);
    let path = file(&stack, "token", format!("Bearer {}\n", token(&ALL_ROLES)))?;
    let own = [("TENANT_ID", TENANT), ("TOKEN_FILE", text(&path)?)];
    let mut emitter = stack.emitter().await?;
    let mut first = worker(&stack, &own, &[]).await?;
    restores(&stack, &mut emitter, &first, "one").await?;
    stack.exchange.invalidate_tokens();
    rotate(&path, &token(&ALL_ROLES))?;
    restores(&stack, &mut emitter, &first, "replaced").await?;
    stack.exchange.invalidate_tokens();
    fs::remove_file(&path)?;
    emitter.publish(&job(&stack, "vanished")).await?;
    first.logs("everything is paused").await?;
    first.unready().await?;
    assert!(first.output().contains("identity.token_file: "), "{}", first.output());
    rotate(&path, &token(&ALL_ROLES))?;
    told(&mut emitter, &first, "vanished", "succeeded").await?;
    first.ready().await?;
    ends_well(&stack, first, &[]).await?;

    rotate(&path, &token(&[ROLE_READ]))?;
    let second = worker(&stack, &own, &[]).await?;
    second.logs("the token does not hold MailboxItem.ImportExport.All").await?;
    emitter.publish(&job(&stack, "not enough")).await?;
    told(&mut emitter, &second, "not enough", "mailbox_forbidden").await?;
    ends_well(&stack, second, &[]).await?;
    assert_eq!(stack.exchange.requests(Operation::Token), 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_azure_variables_alone_suffice() -> Result<()> {
    let stack = stack("identity_azure").await?;
    let made = ClientCertificate::generate()?;
    stack.exchange.add_certificate(CLIENT_ID, &made.der)?;
    stack.exchange.add_federated_token(CLIENT_ID, "federated~token");
    stack.exchange.set_managed_identity(TENANT, CLIENT_ID);
    let certificate = file(&stack, "pem", pem(&made))?;
    let federated = file(&stack, "federated", "federated~token")?;
    let endpoint = format!("{}/msi/token", stack.exchange.identity_url());
    // With a slash at the end, as the webhook of Kubernetes writes it.
    let authority = format!("{}/", stack.exchange.login_url());
    let place =
        [("AZURE_TENANT_ID", TENANT), ("AZURE_CLIENT_ID", CLIENT_ID), ("AZURE_AUTHORITY_HOST", &*authority)];
    let mut emitter = stack.emitter().await?;
    for (kind, more) in [
        ("client_secret", vec![("AZURE_CLIENT_SECRET", CLIENT_SECRET)]),
        ("certificate", vec![("AZURE_CLIENT_CERTIFICATE_PATH", text(&certificate)?)]),
        (
            "workload_identity",
            // Charts leave variables empty.
            vec![("AZURE_FEDERATED_TOKEN_FILE", text(&federated)?), ("AZURE_CLIENT_SECRET", "")],
        ),
        (
            "managed_identity",
            vec![("IDENTITY_ENDPOINT", &*endpoint), ("IDENTITY_HEADER", stack.exchange.identity_header())],
        ),
    ] {
        let foreign: Vec<_> = place.into_iter().chain(more).collect();
        let worker = worker(&stack, &[], &foreign).await?;
        restores(&stack, &mut emitter, &worker, kind).await?;
        let lines = worker.log_lines();
        let chosen = lines.iter().find(|line| line["message"] == "identity chosen");
        assert_eq!(chosen.map(|line| &line["kind"]), Some(&json!(kind)), "{}", worker.output());
        ends_well(&stack, worker, &[]).await?;
    }
    assert_eq!(stack.exchange.violations(), Vec::<String>::new());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_of_tenants_that_are_not_allowed_are_refused_before_anybody_is_asked() -> Result<()> {
    let stack = stack("identity_allowed_tenants").await?;
    for tenant in [OTHER, "third.example"] {
        stack.exchange.add_tenant(tenant);
        stack.exchange.grant(tenant, CLIENT_ID, &ALL_ROLES);
    }
    let worker = stack.worker(binary(), &[("IDENTITY__ALLOWED_TENANTS", OTHER)]).await?;
    let mut emitter = stack.emitter().await?;
    for (tenant, id, end) in [
        (TENANT, "home", "succeeded"),
        (OTHER, "listed", "succeeded"),
        ("third.example", "third", "tenant_not_allowed"),
    ] {
        emitter.publish(&job_of(&stack, tenant, id)).await?;
        told(&mut emitter, &worker, id, end).await?;
    }
    assert_eq!(stack.exchange.requests(Operation::Token), 2, "one for each tenant whose jobs are done");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_does_not_consent_waits_alone_and_a_refused_secret_stops_everything() -> Result<()> {
    let stack = stack("identity_consent").await?;
    stack.exchange.add_tenant(OTHER);
    let mut worker = stack.worker(binary(), &[]).await?;
    let mut emitter = stack.emitter().await?;
    emitter.publish(&job_of(&stack, OTHER, "waits")).await?;
    worker.logs("the tenant is paused").await?;
    assert!(worker.output().contains("AADSTS700016"), "{}", worker.output());
    for n in 0..3 {
        restores(&stack, &mut emitter, &worker, &format!("goes-{n}")).await?;
    }
    assert_eq!(worker.get("/readyz").await?.0, 200);
    stack.exchange.grant(OTHER, CLIENT_ID, &ALL_ROLES);
    let end = told(&mut emitter, &worker, "waits", "succeeded").await?;
    assert_eq!(end["attempts"], 1, "{end:#}");

    stack.exchange.expire_secret(CLIENT_ID);
    stack.exchange.invalidate_tokens();
    emitter.publish(&job_of(&stack, OTHER, "held")).await?;
    worker.logs("everything is paused").await?;
    worker.unready().await?;
    assert!(worker.output().contains("AADSTS7000222"), "{}", worker.output());
    emitter.publish(&job(&stack, "untouched")).await?;
    emitter.jobs_reach(1).await?;
    stack.exchange.add_app(CLIENT_ID, CLIENT_SECRET);
    let ended = emitter.results_of(2).await.with_context(|| worker.output())?;
    for (id, events) in ended {
        assert_eq!((&events[0]["status"], &events[0]["attempts"]), (&json!("succeeded"), &json!(1)), "{id}");
    }
    worker.ready().await?;
    ends_well(&stack, worker, &[]).await?;
    assert_eq!(stack.exchange.violations(), Vec::<String>::new());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn many_who_wait_for_a_token_are_given_one() -> Result<()> {
    const MANY: u32 = 12;
    let stack = stack("identity_many").await?;
    stack.exchange.add_tenant(OTHER);
    stack.exchange.grant(OTHER, CLIENT_ID, &ALL_ROLES);
    let mut worker = stack.worker(binary(), &[]).await?;
    let mut emitter = stack.emitter().await?;
    let tokens = || stack.exchange.requests(Operation::Token);
    let before = tokens();
    let gate = Gate::new();
    let held = Fault::new(Operation::Token, Effect::Wait(When::Open(gate.clone())));
    stack.exchange.add_fault(held.tenant(OTHER))?;
    emitter.publish_all((0..MANY).map(|n| job_of(&stack, OTHER, &format!("first-{n}")))).await?;
    gate.arrived(1).await;
    worker.metric_reaches("restore_jobs_in_flight", &[], f64::from(MANY)).await?;
    gate.open();
    emitter.results_of(usize::try_from(MANY)?).await.with_context(|| worker.output())?;
    assert_eq!(tokens() - before, 1);
    // Twelve refusals of one token are one renewal.
    stack.exchange.invalidate_tokens();
    emitter.publish_all((0..MANY).map(|n| job_of(&stack, OTHER, &format!("second-{n}")))).await?;
    for (id, events) in emitter.results_of(usize::try_from(MANY)?).await.with_context(|| worker.output())? {
        assert_eq!((&events[0]["status"], &events[0]["attempts"]), (&json!("succeeded"), &json!(1)), "{id}");
    }
    assert_eq!(tokens() - before, 2);
    assert!(worker.terminate().await?.success());
    Ok(())
}
