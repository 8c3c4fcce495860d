//! Child processes that never outlive this one, however it ends, and never leave anything of theirs behind.
//!
//! Each child leads a process group of its own. A shell beside it in that group waits for a pipe whose other
//! end is held here; when this process ends, by `kill -9` too, the pipe closes and the shell kills the group.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::wait;

/// Becomes the program itself (`exec`), so that its process id is the one known here.
const SCRIPT: &str = r#"exec 3<&0; (cat <&3; kill -KILL 0) >/dev/null 2>&1 & exec "$@" </dev/null 3<&-"#;

/// A running child and all it has started in its process group.
#[derive(Debug)]
pub struct Supervised {
    child: Child,
    group: Pid,
}

/// Prepares `program`; arguments and environment are added to it as to any other command.
#[must_use]
pub fn command(program: impl AsRef<Path>) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", SCRIPT, "sh"]).arg(program.as_ref());
    command
}

impl Supervised {
    /// Starts a command made by [`command`], its output going to the file `log`.
    pub fn spawn(mut command: Command, log: &Path) -> Result<Self> {
        let output = fs::OpenOptions::new().create(true).append(true).open(log)?;
        let errors = output.try_clone()?;
        let child = command
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(output)
            .stderr(errors)
            .spawn()
            .context("cannot start a child process")?;
        let group =
            i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("impossible process id")?;
        Ok(Self { child, group })
    }

    /// The child's own process id, which is its group's too.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Tells whether the child itself has ended.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Sends a signal to the living processes of the group whose name is `name`; tells how many there were.
    pub fn signal(&self, name: &str, signal: Signal) -> Result<usize> {
        let named: Vec<_> = members(self.group).into_iter().filter(|member| member.name == name).collect();
        for member in &named {
            kill_process(member.id, signal).or_else(|error| match error {
                rustix::io::Errno::SRCH => Ok(()),
                error => Err(error),
            })?;
        }
        Ok(named.len())
    }

    /// Waits until no process of that name lives in the group any more.
    pub async fn wait_gone(&self, name: &str, limit: Duration) -> Result<()> {
        wait::until(&format!("the end of {name}"), limit, async || {
            let gone = members(self.group).iter().all(|member| member.name != name);
            Ok(gone.then_some(()))
        })
        .await
    }

    /// Kills the whole group and waits for the end of the child.
    pub fn kill(&mut self) {
        // As long as the shell waits for its pipe, the group's number cannot belong to anybody else.
        let Some(pipe) = self.child.stdin.take() else { return };
        if let Err(error) = kill_process_group(self.group, Signal::KILL) {
            tracing::warn!(%error, group = self.id(), "cannot kill a child's process group");
        }
        drop(pipe);
        if let Err(error) = self.child.wait() {
            tracing::warn!(%error, child = self.id(), "cannot wait for a child's end");
        }
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        self.kill();
    }
}

/// One living process.
struct Member {
    id: Pid,
    name: String,
}

/// The living processes of a group; those that only wait for being reaped do not count.
fn members(group: Pid) -> Vec<Member> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .filter_map(|entry| fs::read_to_string(entry.ok()?.path().join("stat")).ok())
        .filter_map(|stat| member_of(group, &stat))
        .collect()
}

/// Reads one line of `/proc/<pid>/stat`: `pid (name) state ppid pgrp …`.
fn member_of(group: Pid, stat: &str) -> Option<Member> {
    let (id, rest) = stat.split_once(" (")?;
    let (name, rest) = rest.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    let state = fields.next()?;
    let pgrp = fields.nth(1)?.parse().ok().and_then(Pid::from_raw)?;
    let living = !matches!(state, "Z" | "X" | "x");
    (living && pgrp == group).then_some(())?;
    Some(Member { id: Pid::from_raw(id.parse().ok()?)?, name: name.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);
    /// Set in the process that is to be killed by the test below; holds the file for its child's group.
    const VICTIM: &str = "RESTORE_SANDBOX_VICTIM";

    /// A child with a child of its own.
    fn family(log: &Path) -> Result<Supervised> {
        let mut sh = command("sh");
        sh.args(["-c", "sleep 600 & echo started; wait"]);
        Supervised::spawn(sh, log)
    }

    async fn started(log: &Path) -> Result<()> {
        wait::until("the start", LIMIT, async || {
            Ok(fs::read_to_string(log)?.contains("started").then_some(()))
        })
        .await
    }

    #[tokio::test]
    async fn dropping_a_child_ends_its_children_too() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let log = dir.path().join("log");
        let child = family(&log)?;
        started(&log).await?;
        let group = child.group;
        assert!(members(group).iter().any(|member| member.name == "sleep"));
        drop(child);
        wait::until("the end", LIMIT, async || Ok(members(group).is_empty().then_some(()))).await
    }

    #[tokio::test]
    async fn a_parent_killed_by_surprise_takes_its_children_along() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let file = dir.path().join("group");
        let mut parent = Command::new(std::env::current_exe()?)
            .args(["--exact", "supervised::tests::victim", "--nocapture"])
            .env(VICTIM, &file)
            .stdout(Stdio::null())
            .spawn()?;
        let group =
            wait::until("the child's start", LIMIT, async || Ok(fs::read_to_string(&file).ok())).await?;
        let group = Pid::from_raw(group.parse()?).context("no group")?;
        assert!(members(group).iter().any(|member| member.name == "sleep"));
        parent.kill()?;
        parent.wait()?;
        wait::until("the end", LIMIT, async || Ok(members(group).is_empty().then_some(()))).await
    }

    /// Not a test by itself: the parent of the test above, which kills it.
    #[tokio::test]
    async fn victim() -> Result<()> {
        let Some(file) = std::env::var_os(VICTIM) else { return Ok(()) };
        let dir = tempfile::tempdir()?;
        let log = dir.path().join("log");
        let child = family(&log)?;
        started(&log).await?;
        let draft = dir.path().join("draft");
        fs::write(&draft, child.id().to_string())?;
        fs::rename(draft, file)?;
        tokio::time::sleep(LIMIT).await;
        Ok(())
    }
}
