//! JSONL, line by line, in bounded memory: a line that is longer than a job may be is counted, not kept.

use std::io;

use tokio::io::{AsyncBufRead, AsyncBufReadExt as _};

use crate::contract::names::MAX_JOB;

/// One line that is not blank.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// Counted from 1.
    pub number: u64,
    /// Its text without surrounding white space; `Err`: its length, where it is longer than any job.
    pub text: Result<Vec<u8>, usize>,
}

/// Reads lines. [`Lines::next`] may be dropped before it is ready: what was read is kept.
pub(super) struct Lines<R> {
    reader: R,
    number: u64,
    kept: Vec<u8>,
    length: usize,
}

/// White space around a line is no part of its length; this much of it is forgiven.
const SLACK: usize = 1_024;

impl<R: AsyncBufRead + Unpin> Lines<R> {
    pub(super) fn new(reader: R) -> Self {
        Self { reader, number: 0, kept: Vec::new(), length: 0 }
    }

    /// The next line that is not blank.
    pub(super) async fn next(&mut self) -> io::Result<Option<Line>> {
        loop {
            let chunk = self.reader.fill_buf().await?;
            if chunk.is_empty() {
                return Ok(if self.length == 0 { None } else { self.line() });
            }
            let end = chunk.iter().position(|byte| *byte == b'\n');
            let part = chunk.get(..end.unwrap_or(chunk.len())).unwrap_or_default();
            let room = (MAX_JOB + SLACK).saturating_sub(self.kept.len());
            self.kept.extend_from_slice(part.get(..part.len().min(room)).unwrap_or_default());
            self.length += part.len();
            let used = part.len() + usize::from(end.is_some());
            self.reader.consume(used);
            if end.is_some()
                && let Some(line) = self.line()
            {
                return Ok(Some(line));
            }
        }
    }

    /// Ends the line; `None`: it is blank.
    fn line(&mut self) -> Option<Line> {
        self.number += 1;
        let (kept, length) = (std::mem::take(&mut self.kept), std::mem::take(&mut self.length));
        if length > kept.len() {
            return Some(Line { number: self.number, text: Err(length) });
        }
        // Some editors begin a file with a byte order mark, which is no JSON.
        let text = kept.strip_prefix(b"\xef\xbb\xbf".as_slice()).unwrap_or(&kept).trim_ascii();
        (!text.is_empty()).then(|| Line { number: self.number, text: Ok(text.to_vec()) })
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::BufReader;

    use super::*;

    async fn read(text: &[u8]) -> Vec<(u64, Result<String, usize>)> {
        let mut lines = Lines::new(BufReader::with_capacity(7, text));
        let mut read = Vec::new();
        while let Some(line) = lines.next().await.expect("readable") {
            read.push((line.number, line.text.map(|t| String::from_utf8(t).expect("UTF-8"))));
        }
        read
    }

    #[tokio::test]
    async fn blank_lines_count_and_are_skipped() {
        let text = b"\xef\xbb\xbf{\"a\":1}\r\n\n  \n{\"b\":2} \n{\"c\":3}";
        let expected = [(1, "{\"a\":1}"), (4, "{\"b\":2}"), (5, "{\"c\":3}")];
        assert_eq!(read(text).await, expected.map(|(n, t)| (n, Ok(t.to_owned()))));
    }

    #[tokio::test]
    async fn a_line_longer_than_any_job_is_told_and_not_kept() {
        let long = MAX_JOB * 3;
        let mut text = vec![b'x'; long];
        text.extend_from_slice(b"\nnext\n");
        assert_eq!(read(&text).await, [(1, Err(long)), (2, Ok("next".to_owned()))]);
    }
}
