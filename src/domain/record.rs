//! The ledger's record of one job as a pure state machine.
