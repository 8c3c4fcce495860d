//! Layers, problems, defaults.

use super::*;

fn sources(file: &str, environment: &[(&str, &str)]) -> (Sources, tempfile::TempDir) {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("restore-worker.yaml");
    std::fs::write(&path, file).expect("written");
    let environment = environment.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
    (Sources { file: Some(path), environment }, dir)
}

const MINIMAL: &str = "ledger: { bucket: records }\nidentity: { tenant_id: contoso.com }\n";

#[test]
fn the_defaults_are_the_contracts() {
    let (sources, _dir) = sources(MINIMAL, &[]);
    let config = sources.read().expect("valid");
    assert_eq!((config.broker.prefetch, config.broker.publish_channels), (512, 16));
    assert_eq!(
        config.broker.tiers.iter().map(|t| t.name.as_str()).collect::<Vec<_>>(),
        ["5s", "30s", "2m", "10m", "1h", "6h"]
    );
    assert_eq!((config.storage.max_blob, config.storage.retain), (200 << 20, 256 << 10));
    assert_eq!((config.lanes.window_bytes, config.lanes.window_requests), (150_000_000, 10_000));
    assert_eq!(
        (config.retry.attempts, config.retry.hold, config.grace),
        (8, Duration::from_secs(20), Duration::from_secs(60))
    );
    assert_eq!(config.in_doubt.settle, Duration::from_secs(600));
    assert_eq!(config.admin.listen.to_string(), "0.0.0.0:9464");
    assert_eq!(config.broker.results.routing_key, "restore.results");
}

#[test]
fn the_environment_wins_over_the_file_and_the_file_over_azures_variables() {
    let file =
        "ledger: { bucket: records }\nbroker: { prefetch: 7 }\nidentity: { tenant_id: file.example }\n";
    let environment = [
        ("RESTORE_WORKER__BROKER__PREFETCH", "9"),
        ("RESTORE_WORKER__BROKER__WAIT_TIERS", "1s,2s"),
        ("AZURE_TENANT_ID", "azure.example"),
        ("AZURE_CLIENT_ID", "client"),
        ("HOSTNAME", "worker-7"),
    ];
    let (sources, _dir) = sources(file, &environment);
    let config = sources.read().expect("valid");
    assert_eq!((config.broker.prefetch, config.broker.tiers.len()), (9, 2));
    assert_eq!(config.default_tenant.expect("tenant").as_str(), "file.example");
    assert_eq!(config.exchange.identity.client_id.as_deref(), Some("client"));
    assert_eq!(config.broker.worker, "worker-7");
}

#[test]
fn items_that_could_never_begin_are_refused_at_the_start() {
    let file = "broker: { uri: \"amqp://localhost\" }\nledger: { bucket: records }\nexchange: { request_timeout: 10m }\n";
    let (sources, _dir) = sources(file, &[]);
    let text = sources.read().expect_err("invalid").to_string();
    assert!(text.contains("exchange.request_timeout: with storage.max_blob"), "{text}");
    assert!(text.contains("1200 s at most"), "{text}");
}

#[test]
fn every_problem_is_told_at_once_with_its_key_and_source() {
    let file = "broker: { prefech: 7, heartbeat: soon, wait_tiers: [30s, 5s] }\nlanes: { in_flight: 0 }\nstorage: { max_blob: big }\n";
    let environment = [
        ("RESTORE_WORKER__RETRY__BASE", "1h"),
        ("RESTORE_WORKER__NO__SUCH", "x"),
        ("RESTORE_WORKER__LOG__LEVEL", "loud"),
    ];
    let (sources, _dir) = sources(file, &environment);
    let text = sources.read().expect_err("invalid").to_string();
    for part in [
        "broker.prefech: unknown key; did you mean broker.prefetch?",
        "broker.heartbeat: must be a duration",
        "broker.wait_tiers: must grow",
        "lanes.in_flight: must be a number between 1 and",
        "storage.max_blob: must be a size",
        "retry.max: must not be shorter than the base",
        "no.such: unknown key",
        "log.level: must be one of",
        "(RESTORE_WORKER__NO__SUCH)",
        "ledger.bucket: must be set",
        "restore-worker.yaml)",
    ] {
        assert!(text.contains(part), "{part:?} is missing in\n{text}");
    }
}

#[test]
fn files_for_the_brokers_tls_are_tried_at_the_start() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = |name: &str, content: &[u8]| {
        let path = dir.path().join(name);
        std::fs::write(&path, content).expect("written");
        path.display().to_string()
    };
    let made = rcgen::generate_simple_self_signed(vec!["worker".into()]).expect("a certificate");
    let (pem, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    let (good, good_key) = (file("good.pem", pem.as_bytes()), file("good.key", key.as_bytes()));
    let (text, latin) = (file("text", b"hello"), file("latin", &[pem.as_bytes(), b"# \xe9"].concat()));
    let (ca, cert, key) = ("broker.tls.ca_file: ", "broker.tls.cert_file: ", "broker.tls.key_file: ");
    for (pairs, expected) in [
        (vec![("CA_FILE", &*good), ("CERT_FILE", &*good), ("KEY_FILE", &*good_key)], None),
        (vec![("SERVER_NAME", "10.0.0.1")], None),
        (vec![("SERVER_NAME", "no name")], Some("broker.tls.server_name: must be a DNS name".to_owned())),
        (vec![("CA_FILE", "/no/such/file")], Some(format!("{ca}cannot read /no/such/file"))),
        (vec![("CA_FILE", &*text)], Some(format!("{ca}holds no certificate"))),
        (vec![("CA_FILE", &*latin)], Some(format!("{ca}is no UTF-8"))),
        (vec![("CERT_FILE", &*good)], Some(format!("{cert}cert_file and key_file are needed together"))),
        (vec![("CERT_FILE", &*text), ("KEY_FILE", &*good_key)], Some(format!("{cert}holds no certificate"))),
        (vec![("CERT_FILE", &*good), ("KEY_FILE", &*text)], Some(format!("{key}holds no private key"))),
    ] {
        let pairs =
            pairs.iter().map(|(name, value)| (format!("RESTORE_WORKER__BROKER__TLS__{name}"), *value));
        let pairs: Vec<_> = pairs.collect();
        let environment: Vec<_> = pairs.iter().map(|(name, value)| (name.as_str(), *value)).collect();
        let (sources, _dir) = sources(MINIMAL, &environment);
        let said = sources.read().err().map(|problems| problems.to_string());
        let right = match (&said, &expected) {
            (None, None) => true,
            (Some(said), Some(expected)) => said.contains(expected),
            (Some(_), None) | (None, Some(_)) => false,
        };
        assert!(right, "{environment:?}: {expected:?} is not in {said:?}");
    }
}

#[test]
fn a_secret_is_never_shown() {
    let environment = [
        ("RESTORE_WORKER__IDENTITY__CLIENT_SECRET", "hunter2"),
        ("RESTORE_WORKER__BROKER__URI", "amqp://u:hunter2@h/%2f"),
    ];
    let (sources, _dir) = sources(MINIMAL, &environment);
    let shown = format!("{}\n{:?}", sources.effective(), sources.read().expect("valid"));
    assert!(!shown.contains("hunter2"), "{shown}");
    assert!(shown.contains("identity.client_secret = (secret)"), "{shown}");
}

#[test]
fn a_secret_and_its_file_are_not_both_taken() {
    let file = format!("{MINIMAL}broker: {{ password: x, password_file: /y }}\n");
    let (sources, _dir) = sources(&file, &[]);
    assert!(
        sources
            .read()
            .expect_err("both")
            .to_string()
            .contains("broker.password: broker.password_file is set, too")
    );
}

#[test]
fn a_file_that_is_named_must_be_there_and_be_yaml() {
    let missing = Sources { file: Some("/no/such/file.yaml".into()), environment: Vec::new() };
    assert!(missing.read().expect_err("missing").to_string().contains("cannot be read"));
    let (broken, _dir) = sources("broker: [", &[]);
    assert!(broken.read().expect_err("broken").to_string().contains("the file: "));
}
