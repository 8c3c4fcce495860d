//! Has the distribution's RabbitMQ installed where that is possible without asking anybody, and says exactly
//! what to do where it is not.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// Where Debian's and the RPM package put the real programs (those in `/usr/sbin` change user first).
pub(super) const PROGRAMS: &str = "/usr/lib/rabbitmq/bin";
/// Tells a package's scripts whether they may start services; 101 = they may not.
const POLICY: &str = "/usr/sbin/policy-rc.d";
const REFUSE: &str = "#!/bin/sh\nexit 101\n";

/// Installs `rabbitmq-server` if it is missing; says so in one line on stderr.
pub async fn ensure_installed() -> Result<()> {
    tokio::task::spawn_blocking(install_if_missing).await?
}

/// Tells whether RabbitMQ's own programs are on this machine.
#[must_use]
pub fn is_installed() -> bool {
    Path::new(PROGRAMS).join("rabbitmq-server").exists()
}

fn install_if_missing() -> Result<()> {
    if is_installed() {
        return Ok(());
    }
    // Two test runs at once: the second waits here, then finds it done.
    let lock = File::create(std::env::temp_dir().join("restore-sandbox-install.lock"))?;
    lock.lock().context("cannot lock the installation")?;
    if is_installed() {
        return Ok(());
    }
    let Some(root) = Root::find() else { bail!("{}", advice("there is no right to install it")) };
    if !on_path("apt-get") {
        bail!("{}", advice("there is no apt-get to install it with"));
    }
    eprintln!(
        "restore-sandbox: installing the distribution's rabbitmq-server with apt-get (no service is started)"
    );
    let _policy = ServicePolicy::put_in_place(root, Path::new(POLICY))?;
    let installed =
        apt_install(root).or_else(|_| root.run(["apt-get", "-q", "update"]).and_then(|()| apt_install(root)));
    installed.with_context(|| advice("apt-get failed"))?;
    if !is_installed() {
        bail!("{}", advice("apt-get succeeded, but it is not where Debian has it"));
    }
    Ok(())
}

fn advice(why: &str) -> String {
    format!(
        "RabbitMQ is not installed and {why}: install it (Debian, Ubuntu: `apt-get install --no-install-recommends \
         rabbitmq-server`), or point AMQP_URI (and RABBITMQ_MANAGEMENT_URI) at an existing broker"
    )
}

fn apt_install(root: Root) -> Result<()> {
    let options = ["apt-get", "-q", "-y", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=300"];
    root.run(options.into_iter().chain(["install", "rabbitmq-server"]))
}

/// How commands are run as root.
#[derive(Clone, Copy)]
enum Root {
    Already,
    Sudo,
}

impl Root {
    fn find() -> Option<Self> {
        if rustix::process::geteuid().is_root() {
            return Some(Self::Already);
        }
        let sudo =
            Command::new("sudo").args(["-n", "true"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
        sudo.is_ok_and(|status| status.success()).then_some(Self::Sudo)
    }

    /// Runs a command to its end; its last lines are in the error.
    fn run<'a>(self, words: impl IntoIterator<Item = &'a str>) -> Result<()> {
        let sudo: &[&str] = match self {
            Self::Already => &[],
            Self::Sudo => &["sudo", "-n"],
        };
        let words = sudo.iter().copied().chain(["env", "DEBIAN_FRONTEND=noninteractive"]).chain(words);
        let words: Vec<&str> = words.collect();
        let (program, arguments) = words.split_first().context("no command")?;
        let output = Command::new(program).args(arguments).stdin(Stdio::null()).output()?;
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr);
            bail!("`{}` failed: {}", words.join(" "), super::tail(&text, 5));
        }
        Ok(())
    }
}

/// Keeps a package's scripts from starting services. Removes at the end only what it has put there itself.
struct ServicePolicy {
    own: Option<(Root, PathBuf)>,
}

impl ServicePolicy {
    fn put_in_place(root: Root, path: &Path) -> Result<Self> {
        if path.exists() {
            return Ok(Self { own: None });
        }
        let mut draft = tempfile::NamedTempFile::new()?;
        std::io::Write::write_all(&mut draft, REFUSE.as_bytes())?;
        fs::set_permissions(draft.path(), fs::Permissions::from_mode(0o755))?;
        let (from, to) = (text(draft.path())?, text(path)?);
        root.run(["install", "-m", "755", from, to])?;
        Ok(Self { own: Some((root, path.to_owned())) })
    }
}

impl Drop for ServicePolicy {
    fn drop(&mut self) {
        let Some((root, path)) = &self.own else { return };
        // Not ours any more if somebody has written another one meanwhile.
        let ours = fs::read_to_string(path).is_ok_and(|content| content == REFUSE);
        let removed = if ours { text(path).and_then(|path| root.run(["rm", "-f", path])) } else { Ok(()) };
        if let Err(error) = removed {
            eprintln!("restore-sandbox: {} is left behind: {error:#}", path.display());
        }
    }
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is not text")
}

fn on_path(program: impl AsRef<OsStr>) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program.as_ref()).exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_own_service_policy_is_taken_back() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("policy-rc.d");
        let policy = ServicePolicy::put_in_place(Root::Already, &path)?;
        assert_eq!(Command::new(&path).status()?.code(), Some(101));
        drop(policy);
        assert!(!path.exists());
        Ok(())
    }

    #[test]
    fn somebody_elses_service_policy_is_kept() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("policy-rc.d");
        fs::write(&path, "#!/bin/sh\nexit 0\n")?;
        drop(ServicePolicy::put_in_place(Root::Already, &path)?);
        assert!(path.exists());
        Ok(())
    }

    #[test]
    fn the_advice_names_the_package_and_the_way_around() {
        let advice = advice("x");
        assert!(advice.contains("install --no-install-recommends rabbitmq-server"), "{advice}");
        assert!(advice.contains("AMQP_URI"), "{advice}");
    }
}
