//! Where jobs come from, and whether every line is one.

use std::path::PathBuf;

use anyhow::Context as _;
use aws_lc_rs::digest::{Context, SHA256};
use tokio::{
    fs::File,
    io::{AsyncBufRead, BufReader},
};

use super::lines::{Line, Lines};
use crate::{
    cli::operator::shown,
    contract::{Parser, Wrapping, names::MAX_JOB},
    domain::{RestoreJob, hex::hex},
};

/// A file of jobs, or standard input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Input {
    /// Can be read twice: checked as a whole before the first job is published.
    File(PathBuf),
    /// Can be read once: each line is checked when it comes.
    Stdin,
}

impl std::str::FromStr for Input {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(if text == "-" { Self::Stdin } else { Self::File(text.into()) })
    }
}

/// What a file holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Survey {
    /// The last line's number.
    pub last: u64,
    /// Lines that are jobs.
    pub jobs: u64,
    /// Lines that are none.
    pub refused: u64,
    /// The first few of those, with the reason.
    pub reasons: Vec<String>,
    /// Of the content: equal files have equal digests.
    pub digest: String,
}

/// Refused lines that are told one by one.
pub(super) const SHOWN: usize = 20;

impl Input {
    /// Its lines from the beginning.
    pub(super) async fn lines(&self) -> anyhow::Result<Lines<Box<dyn AsyncBufRead + Unpin + Send>>> {
        let reader: Box<dyn AsyncBufRead + Unpin + Send> = match self {
            Self::File(path) => {
                let file =
                    File::open(path).await.with_context(|| format!("{} cannot be opened", path.display()))?;
                Box::new(BufReader::with_capacity(1 << 16, file))
            }
            Self::Stdin => Box::new(BufReader::new(tokio::io::stdin())),
        };
        Ok(Lines::new(reader))
    }

    /// Reads a file through; `None` for standard input, which can be read only once.
    pub(super) async fn survey(&self, parser: &Parser) -> anyhow::Result<Option<Survey>> {
        let Self::File(path) = self else { return Ok(None) };
        let mut lines = self.lines().await?;
        let mut survey = Survey { last: 0, jobs: 0, refused: 0, reasons: Vec::new(), digest: String::new() };
        let mut context = Context::new(&SHA256);
        while let Some(line) =
            lines.next().await.with_context(|| format!("{} cannot be read", path.display()))?
        {
            survey.last = line.number;
            if let Ok(text) = &line.text {
                context.update(&line.number.to_be_bytes());
                context.update(text);
            }
            match parse(parser, &line) {
                Ok(_) => survey.jobs += 1,
                Err(why) => {
                    survey.refused += 1;
                    if survey.reasons.len() < SHOWN {
                        survey.reasons.push(why);
                    }
                }
            }
        }
        survey.digest = hex(&context.finish().as_ref()[..8]);
        Ok(Some(survey))
    }
}

/// Parses a line as the worker would. The refusal names line and reason.
pub(super) fn parse(parser: &Parser, line: &Line) -> Result<RestoreJob, String> {
    let refused = |why: &str| format!("line {}: {}", line.number, shown(why));
    match &line.text {
        Ok(text) => parser.parse(text, Wrapping::default()).map_err(|malformed| refused(&malformed.why)),
        Err(length) => Err(refused(&format!("a job is at most {MAX_JOB} bytes, this line has {length}"))),
    }
}
