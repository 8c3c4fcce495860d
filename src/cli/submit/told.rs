//! Which jobs have their result: a bit a line for this run, sixteen bytes a job for what an earlier run left in the file.

use aws_lc_rs::digest::{SHA256, digest};

use super::tally::End;

/// Which lines of this run have their result. A million lines take 125 KB.
#[derive(Debug, Default)]
pub(super) struct Bits(Vec<u64>);

impl Bits {
    pub(super) fn get(&self, line: u64) -> bool {
        let (word, bit) = place(line);
        self.0.get(word).is_some_and(|w| w & bit != 0)
    }

    /// Sets a line's bit; whether it was not set before.
    pub(super) fn set(&mut self, line: u64) -> bool {
        let (word, bit) = place(line);
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        let Some(w) = self.0.get_mut(word) else { return false };
        let new = *w & bit == 0;
        *w |= bit;
        new
    }
}

fn place(line: u64) -> (usize, u64) {
    (usize::try_from(line / 64).unwrap_or(usize::MAX), 1 << (line % 64))
}

/// Jobs that an earlier run has the result of: 15 bytes of the id's SHA-256 and one for the end. A million take 16 MB, the
/// most that `submit` keeps for any number of jobs.
#[derive(Debug, Default)]
pub(super) struct Finished(Vec<[u8; 16]>);

impl Finished {
    /// Adds a job; [`Finished::sort`] before the first question.
    pub(super) fn add(&mut self, job_id: &str, end: End) {
        let mut entry = entry(job_id);
        entry[15] = match end {
            End::Succeeded => 0,
            End::Unknown => 1,
            End::Failed(u8::MAX) => 2,
            End::Failed(reason) => reason.saturating_add(3),
        };
        self.0.push(entry);
    }

    /// Makes it ready for questions. Of a job's several results the last in the file counts.
    pub(super) fn sort(&mut self) {
        // Stable, so that equal ids stay in the order of the file.
        self.0.sort_by_key(id);
        self.0.dedup_by(|later, kept| {
            let same = id(later) == id(kept);
            if same {
                *kept = *later;
            }
            same
        });
        self.0.shrink_to_fit();
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// How a job ended, if its result is there.
    pub(super) fn end(&self, job_id: &str) -> Option<End> {
        let sought = id(&entry(job_id));
        let place = self.0.binary_search_by_key(&sought, id).ok()?;
        Some(match self.0.get(place)?[15] {
            0 => End::Succeeded,
            1 => End::Unknown,
            2 => End::Failed(u8::MAX),
            reason => End::Failed(reason - 3),
        })
    }
}

fn entry(job_id: &str) -> [u8; 16] {
    let mut entry = [0; 16];
    entry[..15].copy_from_slice(&digest(&SHA256, job_id.as_bytes()).as_ref()[..15]);
    entry
}

fn id(entry: &[u8; 16]) -> [u8; 15] {
    let mut id = [0; 15];
    id.copy_from_slice(&entry[..15]);
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bit_is_new_once() {
        let mut bits = Bits::default();
        assert!(bits.set(1_000_000) && !bits.set(1_000_000) && bits.set(1_000_001));
        assert!(bits.get(1_000_000) && !bits.get(999_999) && !bits.get(5_000_000));
        assert!(bits.0.len() * 8 <= 126_000);
    }

    #[test]
    fn of_several_results_the_last_counts() {
        let mut finished = Finished::default();
        let ends = [End::Failed(3), End::Unknown, End::Failed(u8::MAX), End::Succeeded];
        for (n, end) in ends.into_iter().enumerate() {
            finished.add(&format!("j-{n}"), end);
        }
        finished.add("j-0", End::Succeeded);
        finished.sort();
        assert_eq!(finished.len(), 4);
        assert_eq!(finished.end("j-0"), Some(End::Succeeded));
        assert_eq!(finished.end("j-1"), Some(End::Unknown));
        assert_eq!(finished.end("j-2"), Some(End::Failed(u8::MAX)));
        assert_eq!(finished.end("j-9"), None);
    }
}
