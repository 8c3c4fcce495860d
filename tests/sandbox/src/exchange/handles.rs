//! What a test does with the model: sets it up, scripts it, looks into it.

#![expect(clippy::must_use_candidate, reason = "what changes the model also tells what it did")]

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result};
use aws_lc_rs::digest;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    Answer, Exchange, assertion,
    directory::{Consent, Token},
    fault::{Cut, Effect, Fault, FaultId, Operation},
    framing::ItemFacts,
    host::Part,
    sight::Watch,
    store::{MailboxKind, NewItem, StoredItem, hex},
    throttle::Usage,
    world::SeenRequest,
};

/// Where things are.
impl Exchange {
    /// `https://host:port` of the token endpoint: `AZURE_AUTHORITY_HOST`.
    #[must_use]
    pub fn login_url(&self) -> &str {
        &self.shared.login
    }

    /// `https://host:port` of Graph, without a version.
    #[must_use]
    pub fn graph_url(&self) -> &str {
        &self.shared.graph
    }

    /// `https://host:port` of the import host.
    #[must_use]
    pub fn import_url(&self) -> &str {
        &self.shared.import
    }

    /// `http://127.0.0.1:port` of the managed identity endpoints: `/metadata/identity/oauth2/token` as IMDS,
    /// `/msi/token` as App Service (`IDENTITY_ENDPOINT`, with [`Exchange::identity_header`]).
    #[must_use]
    pub fn identity_url(&self) -> &str {
        &self.shared.identity
    }

    /// What App Service gives as `IDENTITY_HEADER`.
    #[must_use]
    pub fn identity_header(&self) -> &str {
        &self.shared.identity_secret
    }

    /// The authority to trust, PEM; `None` if the TLS was given by the caller.
    #[must_use]
    pub fn ca_pem(&self) -> Option<&str> {
        self.ca_pem.as_deref()
    }
}

/// Entra.
impl Exchange {
    /// Adds a tenant.
    pub fn add_tenant(&self, tenant: &str) {
        self.shared.world().directory.tenants.insert(tenant.to_owned());
    }

    /// Adds an application, or a further secret to it.
    pub fn add_app(&self, client_id: &str, secret: &str) {
        let mut world = self.shared.world();
        world.secrets.push(secret.to_owned());
        let app = world.directory.apps.entry(client_id.to_owned()).or_default();
        app.secrets.insert(secret.to_owned(), false);
    }

    /// Says what a tenant thinks of an application; before, the tenant does not know it (AADSTS700016).
    pub fn set_consent(&self, tenant: &str, client_id: &str, consent: Consent) {
        let mut world = self.shared.world();
        let app = world.directory.apps.entry(client_id.to_owned()).or_default();
        app.consents.insert(tenant.to_owned(), consent);
    }

    /// The tenant grants these roles ([`super::ALL_ROLES`]).
    pub fn grant(&self, tenant: &str, client_id: &str, roles: &[&str]) {
        let roles = roles.iter().map(|role| (*role).to_owned()).collect();
        self.set_consent(tenant, client_id, Consent::Granted(roles));
    }

    /// The tenant withdraws its consent from every application: AADSTS65001. Tokens in hand go on working.
    pub fn withdraw_consent(&self, tenant: &str) {
        for app in self.shared.world().directory.apps.values_mut() {
            if let Some(consent) = app.consents.get_mut(tenant) {
                *consent = Consent::Withdrawn;
            }
        }
    }

    /// The tenant forgets the application: AADSTS700016.
    pub fn forget_app(&self, tenant: &str, client_id: &str) {
        if let Some(app) = self.shared.world().directory.apps.get_mut(client_id) {
            app.consents.remove(tenant);
        }
    }

    /// Removes all secrets of an application: AADSTS7000215.
    pub fn revoke_secret(&self, client_id: &str) {
        if let Some(app) = self.shared.world().directory.apps.get_mut(client_id) {
            app.secrets.clear();
        }
    }

    /// Lets all secrets of an application expire: AADSTS7000222.
    pub fn expire_secret(&self, client_id: &str) {
        if let Some(app) = self.shared.world().directory.apps.get_mut(client_id) {
            app.secrets.values_mut().for_each(|expired| *expired = true);
        }
    }

    /// Registers a certificate (DER, RSA) for client assertions; gives its `x5t#S256`.
    ///
    /// # Errors
    /// If it is no certificate.
    pub fn add_certificate(&self, client_id: &str, der: &[u8]) -> Result<String> {
        let key = assertion::public_key(der).context("cannot read the certificate's public key")?;
        let thumbprint = URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, der));
        let mut world = self.shared.world();
        let app = world.directory.apps.entry(client_id.to_owned()).or_default();
        app.certificates.insert(thumbprint.clone(), key);
        Ok(thumbprint)
    }

    /// Removes all certificates: AADSTS700027.
    pub fn revoke_certificates(&self, client_id: &str) {
        if let Some(app) = self.shared.world().directory.apps.get_mut(client_id) {
            app.certificates.clear();
        }
    }

    /// Takes this text as a federated assertion (workload identity); another is AADSTS70021.
    pub fn add_federated_token(&self, client_id: &str, token: &str) {
        let mut world = self.shared.world();
        world.secrets.push(token.to_owned());
        let app = world.directory.apps.entry(client_id.to_owned()).or_default();
        app.federated.insert(token.to_owned());
    }

    /// Takes it no longer.
    pub fn remove_federated_token(&self, client_id: &str, token: &str) {
        if let Some(app) = self.shared.world().directory.apps.get_mut(client_id) {
            app.federated.remove(token);
        }
    }

    /// Assigns an identity to this machine.
    pub fn set_managed_identity(&self, tenant: &str, client_id: &str) {
        self.shared.world().directory.machine = Some((tenant.to_owned(), client_id.to_owned()));
    }

    /// Issues an application's token without a request.
    #[must_use]
    pub fn issue_token(&self, tenant: &str, client_id: &str, roles: &[&str], lifetime: Duration) -> String {
        self.issue(tenant, client_id, roles.iter().map(|role| (*role).to_owned()).collect(), None, lifetime)
    }

    /// Issues a delegated token (`scp`) of the user whose mailbox it is.
    #[must_use]
    pub fn issue_delegated_token(
        &self,
        tenant: &str,
        client_id: &str,
        mailbox: &str,
        scopes: &[&str],
        lifetime: Duration,
    ) -> String {
        let scopes = scopes.iter().map(|scope| (*scope).to_owned()).collect();
        self.issue(tenant, client_id, Vec::new(), Some((mailbox.to_owned(), scopes)), lifetime)
    }

    fn issue(
        &self,
        tenant: &str,
        client_id: &str,
        roles: Vec<String>,
        delegated: Option<(String, Vec<String>)>,
        lifetime: Duration,
    ) -> String {
        let mut world = self.shared.world();
        let lifetime = i64::try_from(lifetime.as_millis()).unwrap_or(i64::MAX);
        let expires_ms = world.now_ms().saturating_add(lifetime);
        let (tenant, client_id) = (tenant.to_owned(), client_id.to_owned());
        world.issue(Token { tenant, client_id, roles, delegated, expires_ms, revoked: false })
    }

    /// All tokens issued so far are refused from now on.
    pub fn invalidate_tokens(&self) {
        self.shared.world().directory.tokens.values_mut().for_each(|token| token.revoked = true);
    }
}

/// Exchange.
impl Exchange {
    /// Adds a user's mailbox.
    pub fn add_mailbox(&self, tenant: &str, mailbox: &str) {
        self.add_mailbox_of(tenant, mailbox, MailboxKind::Primary);
    }

    /// Adds a mailbox of this kind.
    pub fn add_mailbox_of(&self, tenant: &str, mailbox: &str, kind: MailboxKind) {
        let mut world = self.shared.world();
        let mailbox = world.store.mailboxes.entry(mailbox.to_owned()).or_default();
        tenant.clone_into(&mut mailbox.tenant);
        mailbox.kind = kind;
    }

    /// Adds a folder.
    pub fn add_folder(&self, mailbox: &str, folder: &str) {
        let mut world = self.shared.world();
        world
            .store
            .mailboxes
            .entry(mailbox.to_owned())
            .or_default()
            .folders
            .entry(folder.to_owned())
            .or_default();
    }

    /// The folder now lives in an auxiliary archive, which must have it, too: imports are answered 409, looks 308.
    pub fn move_folder(&self, mailbox: &str, folder: &str, auxiliary: &str) {
        let mut world = self.shared.world();
        let mailbox = world.store.mailboxes.entry(mailbox.to_owned()).or_default();
        mailbox.moved.insert(folder.to_owned(), auxiliary.to_owned());
    }

    /// Removes a folder and its items.
    pub fn remove_folder(&self, mailbox: &str, folder: &str) {
        if let Some(mailbox) = self.shared.world().store.mailboxes.get_mut(mailbox) {
            mailbox.folders.remove(folder);
        }
    }

    /// Limits a mailbox to so many bytes of items; `None` lifts it.
    pub fn set_quota(&self, mailbox: &str, bytes: Option<u64>) {
        if let Some(mailbox) = self.shared.world().store.mailboxes.get_mut(mailbox) {
            mailbox.quota = bytes;
        }
    }

    /// An access policy keeps the application from the mailbox: 403.
    pub fn deny_mailbox(&self, client_id: &str, mailbox: &str) {
        let mut world = self.shared.world();
        world.directory.apps.entry(client_id.to_owned()).or_default().denied.insert(mailbox.to_owned());
    }

    /// The policy is lifted.
    pub fn undeny_mailbox(&self, client_id: &str, mailbox: &str) {
        let mut world = self.shared.world();
        world.directory.apps.entry(client_id.to_owned()).or_default().denied.remove(mailbox);
    }

    /// RBAC for Applications reaches the mailbox, without a role in the token.
    pub fn allow_mailbox(&self, client_id: &str, mailbox: &str) {
        let mut world = self.shared.world();
        world.directory.apps.entry(client_id.to_owned()).or_default().rbac.insert(mailbox.to_owned());
    }

    /// Puts an item into a folder; gives item id and change key.
    pub fn add_item(&self, mailbox: &str, folder: &str, facts: ItemFacts, bytes: &[u8]) -> (String, String) {
        let mut world = self.shared.world();
        let keys = world.new_keys();
        let now_ms = world.now_ms();
        let sha256 = hex(digest::digest(&digest::SHA256, bytes).as_ref());
        let item = NewItem { facts, sha256, length: bytes.len() as u64, stored_by: None };
        let place = world.store.mailboxes.entry(mailbox.to_owned()).or_default();
        place.create(folder, item, keys.clone(), now_ms);
        keys
    }

    /// Somebody changes an item: its change key moves. Gives the new one.
    pub fn touch_item(&self, mailbox: &str, item_id: &str) -> Option<String> {
        let mut world = self.shared.world();
        let (key, now_ms) = (world.new_change_key(), world.now_ms());
        let item = world.store.mailboxes.get_mut(mailbox)?.item_mut(item_id)?;
        item.change_key.clone_from(&key);
        item.modified_ms = now_ms;
        Some(key)
    }

    /// Moves an item's creation by so many milliseconds.
    pub fn shift_item(&self, mailbox: &str, item_id: &str, by_ms: i64) {
        let mut world = self.shared.world();
        let item = world.store.mailboxes.get_mut(mailbox).and_then(|mailbox| mailbox.item_mut(item_id));
        if let Some(item) = item {
            item.created_ms = item.created_ms.saturating_add(by_ms);
        }
    }

    /// Somebody deletes an item.
    pub fn remove_item(&self, mailbox: &str, item_id: &str) -> Option<StoredItem> {
        self.shared.world().store.mailboxes.get_mut(mailbox)?.remove(item_id)
    }

    /// Deletes all sessions of a mailbox before their time; `None`: of all mailboxes.
    pub fn end_sessions(&self, mailbox: Option<&str>) {
        for session in self.shared.world().store.sessions.values_mut() {
            session.ended |= mailbox.is_none_or(|mailbox| session.mailbox == mailbox);
        }
    }

    /// Moves Exchange's clock against the machine's.
    pub fn set_clock_offset(&self, ms: i64) {
        self.shared.world().clock_offset_ms = ms;
    }
}

/// The script.
impl Exchange {
    /// Adds a fault.
    ///
    /// # Errors
    /// If it selects an import before its body by what only the body tells.
    pub fn add_fault(&self, fault: Fault) -> Result<FaultId> {
        self.shared.world().script.add(fault)
    }

    /// 429 for everything of a tenant, as [`Exchange::throttle`] with the limit `Tenant`.
    ///
    /// # Errors
    /// None in practice.
    pub fn throttle_tenant(&self, tenant: &str, retry_after: Option<Duration>) -> Result<Vec<FaultId>> {
        self.throttle(Some(tenant), "Tenant", retry_after)
    }

    /// 429 for everything on Graph and import host, of one tenant or of all, until the faults are cleared. `limit`
    /// is what the text names ("Application is over its … limit."); what Exchange writes for a whole tenant or
    /// application is not known.
    ///
    /// # Errors
    /// None in practice.
    pub fn throttle(
        &self,
        tenant: Option<&str>,
        limit: &str,
        retry_after: Option<Duration>,
    ) -> Result<Vec<FaultId>> {
        let operations = [
            Operation::OpenSession,
            Operation::Import,
            Operation::ListItems,
            Operation::ReadItem,
            Operation::ListFolders,
        ];
        let fault = |operation| {
            let effect = Effect::Refuse(Answer::too_many(limit, retry_after));
            let fault = Fault::new(operation, effect).always();
            match tenant {
                Some(tenant) => fault.tenant(tenant),
                None => fault,
            }
        };
        operations.into_iter().map(|operation| self.add_fault(fault(operation))).collect()
    }

    /// Takes a fault back.
    pub fn clear_fault(&self, id: FaultId) {
        self.shared.world().script.clear(id);
    }

    /// Takes all faults back.
    pub fn clear_faults(&self) {
        self.shared.world().script.clear_all();
    }

    /// Ends every open connection to one of the services now.
    pub fn cut_connections(&self, part: Part, cut: Cut) {
        for line in self.shared.world().lines.of(part) {
            line.sever(cut);
        }
    }

    /// How often a fault fired.
    #[must_use]
    pub fn fired(&self, id: FaultId) -> u64 {
        self.shared.world().script.fired(id)
    }

    /// How often each kind of fault fired.
    #[must_use]
    pub fn fired_by_name(&self) -> BTreeMap<&'static str, u64> {
        self.shared.world().script.fired_by_name()
    }
}

/// What has happened.
impl Exchange {
    /// Shows the moments of imports to somebody, from now on. Only the first who asks is heard.
    pub fn watch(&self, watch: Arc<dyn Watch>) {
        self.shared.watch.set(watch).ok();
    }

    /// Requests that no right client sends.
    #[must_use]
    pub fn violations(&self) -> Vec<String> {
        self.shared.world().violations.clone()
    }

    /// All items of a mailbox, by folder and age.
    #[must_use]
    pub fn items(&self, mailbox: &str) -> Vec<StoredItem> {
        let world = self.shared.world();
        let Some(mailbox) = world.store.mailboxes.get(mailbox) else { return Vec::new() };
        mailbox.folders.values().flat_map(|folder| folder.items.values().cloned()).collect()
    }

    /// One item.
    #[must_use]
    pub fn item(&self, mailbox: &str, item_id: &str) -> Option<StoredItem> {
        self.shared.world().store.mailboxes.get(mailbox)?.item(item_id).cloned()
    }

    /// Sessions opened for a mailbox.
    #[must_use]
    pub fn sessions_opened(&self, mailbox: &str) -> u64 {
        self.shared.world().store.mailboxes.get(mailbox).map_or(0, |mailbox| mailbox.sessions_opened)
    }

    /// Answers by operation and status; status 0: cut or left without an answer.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<(Operation, u16), u64> {
        self.shared.world().counts.clone()
    }

    /// Answers of an operation with this status.
    #[must_use]
    pub fn count(&self, operation: Operation, status: u16) -> u64 {
        self.shared.world().counts.get(&(operation, status)).copied().unwrap_or(0)
    }

    /// Answers of an operation with any status.
    #[must_use]
    pub fn requests(&self, operation: Operation) -> u64 {
        self.shared.world().counts.iter().filter(|((op, _), _)| *op == operation).map(|(_, n)| n).sum()
    }

    /// The last requests, the oldest first; only a few thousand are kept.
    #[must_use]
    pub fn seen(&self) -> Vec<SeenRequest> {
        self.shared.world().seen.iter().cloned().collect()
    }

    /// Connections that are open to one of the services.
    #[must_use]
    pub fn open_connections(&self, part: Part) -> usize {
        self.shared.world().lines.of(part).count()
    }

    /// What a mailbox has carried for an application.
    #[must_use]
    pub fn usage(&self, client_id: &str, mailbox: &str) -> Usage {
        let key = (client_id.to_owned(), mailbox.to_owned());
        let world = self.shared.world();
        world.meters.get(&key).map(|meter| meter.usage(Instant::now())).unwrap_or_default()
    }

    /// The part of the bytes that could have been carried since the first request that was carried, 0 to 1.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a share needs no more than 52 bits")]
    pub fn utilisation(&self, client_id: &str, mailbox: &str) -> f64 {
        let usage = self.usage(client_id, mailbox);
        let limits = &self.shared.options.limits;
        let windows = Duration::from_millis(usage.age_ms).as_secs_f64() / limits.bytes_window.as_secs_f64();
        // A whole window may be spent at once, so the first counts whole.
        usage.bytes as f64 / (limits.bytes as f64 * windows.max(1.0))
    }

    /// Imports whose body ended early.
    #[must_use]
    pub fn aborted_uploads(&self) -> u64 {
        self.shared.world().aborted_uploads
    }

    /// Items whose client was left alone and that are still to be stored.
    #[must_use]
    pub fn pending_commits(&self) -> u64 {
        self.shared.world().pending_commits
    }

    /// Everything secret that was issued or registered: tokens, auth tokens, secrets.
    #[must_use]
    pub fn secrets(&self) -> Vec<String> {
        self.shared.world().secrets.clone()
    }

    /// Waits until this holds; looks after every request and every late commit.
    pub async fn until(&self, mut holds: impl FnMut(&Self) -> bool) {
        let mut changed = self.shared.changed.subscribe();
        while !holds(self) {
            // The sender lives as long as `self`.
            changed.changed().await.ok();
        }
    }

    /// Everything that an oracle needs, as JSON.
    #[must_use]
    pub fn snapshot(&self) -> Value {
        let world = self.shared.world();
        let mailboxes: BTreeMap<&String, Value> = world
            .store
            .mailboxes
            .iter()
            .map(|(id, mailbox)| {
                let items: Vec<&StoredItem> =
                    mailbox.folders.values().flat_map(|f| f.items.values()).collect();
                let folders: Vec<&String> = mailbox.folders.keys().collect();
                let value = json!({"tenant": mailbox.tenant, "kind": mailbox.kind, "folders": folders,
                    "items": items, "sessionsOpened": mailbox.sessions_opened});
                (id, value)
            })
            .collect();
        let counts: Vec<Value> = world
            .counts
            .iter()
            .map(|((operation, status), count)| json!({"operation": operation, "status": status, "count": count}))
            .collect();
        let usage: Vec<Value> = world
            .meters
            .iter()
            .map(|((app, mailbox), meter)| {
                json!({"clientId": app, "mailbox": mailbox, "usage": meter.usage(Instant::now())})
            })
            .collect();
        let taken = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        json!({
            "takenMs": u64::try_from(taken.as_millis()).unwrap_or(u64::MAX),
            "mailboxes": mailboxes, "counts": counts, "usage": usage, "faults": world.script.fired_by_name(),
            "violations": world.violations, "pendingCommits": world.pending_commits,
            "abortedUploads": world.aborted_uploads,
        })
    }
}
