//! What a person may say of a job whose outcome is unknown, and what its record becomes.

use super::{
    event::{Evidence, Failure, Imported, Outcome},
    reason::Reason,
    record::{Record, State},
};

/// What a person found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// The item is there.
    Imported(Imported),
    /// The item is not there.
    NotImported,
}

/// The words of a record that a person has resolved.
const NOT_IMPORTED: &str = "a person looked and found that the item was not imported";

/// What is to be done about the record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resolved {
    /// Write this over it.
    Write(Box<Record>),
    /// It says so already (an earlier resolution that was interrupted): only tell it.
    Stands,
}

impl Resolution {
    /// The record as it is to be.
    ///
    /// # Errors
    /// A sentence, when the record is not one that a person may end.
    pub fn resolve(&self, record: &Record) -> Result<Resolved, &'static str> {
        let known = record.proof().ok().flatten().map(|(imported, _)| imported);
        match (&record.state, self) {
            (State::Unknown { .. }, Self::Imported(imported)) => {
                Ok(Resolved::Write(Box::new(record.imported(imported, None, None, &[]))))
            }
            (State::Unknown { .. }, Self::NotImported) => {
                Ok(Resolved::Write(Box::new(record.not_imported(&failure()))))
            }
            (State::Imported { .. }, Self::Imported(imported)) if known.as_ref() == Some(imported) => {
                Ok(Resolved::Stands)
            }
            (State::Failed { message, .. }, Self::NotImported) if message == NOT_IMPORTED => {
                Ok(Resolved::Stands)
            }
            (State::Imported { .. }, _) => Err("the ledger knows that the job was imported"),
            (State::Failed { .. }, _) => {
                Err("the ledger knows that the job was not imported; a replay tries again")
            }
            (State::Importing, _) => {
                Err("a worker is importing it, or will look soon whether it was imported")
            }
            (State::Released, _) => {
                Err("the ledger knows that the job is not imported yet; it is still being worked on")
            }
        }
    }

    /// The end that is told.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Imported(imported) => Outcome::Succeeded {
                imported: imported.clone(),
                evidence: Evidence::Ledger,
                duplicates: Vec::new(),
            },
            Self::NotImported => Outcome::Failed(failure()),
        }
    }
}

fn failure() -> Failure {
    Failure::new(Reason::OutcomeUnknown, NOT_IMPORTED)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{ChangeKey, ItemId, record::Claimant};

    fn item(id: &str) -> Resolution {
        Resolution::Imported(Imported {
            item_id: ItemId::parse(id).expect("id"),
            change_key: ChangeKey::parse("c").expect("key"),
        })
    }

    #[test]
    fn only_an_unknown_record_is_ended_by_a_person() {
        let who = |replay| Claimant { fingerprint: "f".into(), replay, force: None };
        let released = Record::unclaimed("j", &who(0));
        let unknown = released.unknown(&Failure::new(Reason::OutcomeUnknown, "?"));
        let failed = released.failed(&who(0), &Failure::new(Reason::BlobNotFound, "no"));
        for resolution in [item("i"), Resolution::NotImported] {
            assert!(resolution.resolve(&released).is_err());
            assert!(resolution.resolve(&failed).is_err());
            let Ok(Resolved::Write(record)) = resolution.resolve(&unknown) else { unreachable!("unknown") };
            assert_eq!(
                resolution.resolve(&record),
                Ok(Resolved::Stands),
                "an interrupted resolution goes on"
            );
            assert_eq!(record.replay, 0);
        }
        let Ok(Resolved::Write(imported)) = item("i").resolve(&unknown) else { unreachable!("unknown") };
        assert!(item("another").resolve(&imported).is_err());
        assert!(Resolution::NotImported.resolve(&imported).is_err());
    }
}
