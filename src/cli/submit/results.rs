//! The results file: an event a line, appended as they come, read again by a run that goes on.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, bail};
use tokio::{
    fs::File,
    io::{AsyncBufReadExt as _, AsyncSeekExt as _, AsyncWriteExt as _, BufReader, BufWriter},
};

use super::{tally::Told, told::Finished};

/// A results file that is ours alone.
#[derive(Debug)]
pub(super) struct Results {
    path: PathBuf,
    file: BufWriter<File>,
}

impl Results {
    /// Opens or creates the file, and reads which jobs have their result. A last line that a stopped run left unfinished is cut off.
    ///
    /// # Errors
    /// When the file cannot be used: another run writes it, or a line of it is no result.
    pub(super) async fn open(path: &Path) -> anyhow::Result<(Self, Finished)> {
        let shown = path.display();
        let options =
            std::fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let file = options.with_context(|| format!("{shown} cannot be opened"))?;
        if file.try_lock().is_err() {
            bail!("{shown} is being written by another run");
        }
        let mut file = File::from_std(file);
        let (finished, length) =
            read(&mut file).await.with_context(|| format!("{shown} cannot be gone on with"))?;
        file.set_len(length).await?;
        file.seek(std::io::SeekFrom::Start(length)).await?;
        Ok((Self { path: path.to_owned(), file: BufWriter::new(file) }, finished))
    }

    /// Appends an event, as one line.
    pub(super) async fn append(&mut self, event: &[u8]) -> anyhow::Result<()> {
        let written = async {
            if event.contains(&b'\n') || event.contains(&b'\r') {
                let event: serde_json::Value = serde_json::from_slice(event)?;
                self.file.write_all(&serde_json::to_vec(&event)?).await?;
            } else {
                self.file.write_all(event).await?;
            }
            anyhow::Ok(self.file.write_all(b"\n").await?)
        };
        written.await.with_context(|| format!("{} cannot be written", self.path.display()))
    }

    /// Hands everything to the operating system: from now on it may be acked.
    pub(super) async fn flush(&mut self) -> anyhow::Result<()> {
        self.file.flush().await.with_context(|| format!("{} cannot be written", self.path.display()))
    }

    /// Makes it last.
    pub(super) async fn finish(mut self) -> anyhow::Result<()> {
        self.flush().await?;
        Ok(self.file.get_mut().sync_all().await?)
    }
}

/// The jobs in the file, and the length of its whole lines.
async fn read(file: &mut File) -> anyhow::Result<(Finished, u64)> {
    let (mut finished, mut length, mut number) = (Finished::default(), 0, 0_u64);
    let mut lines = BufReader::new(file);
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = lines.read_until(b'\n', &mut line).await?;
        if line.last() != Some(&b'\n') {
            finished.sort();
            return Ok((finished, length));
        }
        length += u64::try_from(read)?;
        number += 1;
        if line.trim_ascii().is_empty() {
            continue;
        }
        let told = Told::read(&line).ok_or_else(|| anyhow!("line {number} is no result event"))?;
        finished.add(&told.job_id, told.end());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::submit::tally::End;

    #[tokio::test]
    async fn a_stopped_run_is_gone_on_with() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("out.jsonl");
        let (mut results, finished) = Results::open(&path).await.expect("opened");
        assert_eq!(finished.len(), 0);
        results.append(b"{\"jobId\":\"a\",\r\n\"status\":\"succeeded\"}").await.expect("appended");
        results.append(br#"{"jobId":"b","status":"unknown"}"#).await.expect("appended");
        assert!(Results::open(&path).await.is_err(), "two runs at once");
        results.append(br#"{"jobId":"c","stat"#).await.expect("appended");
        results.finish().await.expect("finished");
        let text = std::fs::read(&path).expect("there");
        std::fs::write(&path, text.trim_ascii_end()).expect("cut");
        let (mut results, finished) = Results::open(&path).await.expect("opened");
        assert_eq!((finished.len(), finished.end("b")), (2, Some(End::Unknown)));
        results.append(br#"{"jobId":"c","status":"succeeded"}"#).await.expect("appended");
        results.finish().await.expect("finished");
        assert_eq!(Results::open(&path).await.expect("opened").1.len(), 3);
        std::fs::write(&path, "hello\n").expect("written");
        let refused = format!("{:#}", Results::open(&path).await.expect_err("no results"));
        assert!(refused.contains("line 1 is no result event"), "{refused}");
    }
}
