//! What an AMQP server says, without its deliveries. Other protocols pass untouched.
//!
//! Source: AMQP 0-9-1 specification, section 2.3.5 (frames: type, channel, size, payload, end) and 1.8.3.13 (`basic.deliver`).

use std::{
    collections::HashSet,
    sync::atomic::{AtomicBool, Ordering::SeqCst},
};

const METHOD: u8 = 1;
/// A content's header and body frames.
const CONTENT: [u8; 2] = [2, 3];
/// Class `basic`, method `deliver`.
const DELIVER: [u8; 4] = [0, 60, 0, 60];
/// Type, channel and size.
const HEAD: usize = 7;

/// One connection's server side, frame by frame.
#[derive(Debug, Default)]
pub(super) struct Deliveries {
    /// Whether it is AMQP: a server's first frame is a method, and no other protocol here begins with that byte.
    amqp: Option<bool>,
    /// The beginning of a frame that is not whole yet.
    held: Vec<u8>,
    /// Channels whose content belongs to a delivery that was left out.
    dropping: HashSet<[u8; 2]>,
}

impl Deliveries {
    /// The whole frames that are to go on.
    pub(super) fn left_out(&mut self, read: Vec<u8>, deaf: &AtomicBool) -> Vec<u8> {
        if !*self.amqp.get_or_insert(read.first() == Some(&METHOD)) {
            return read;
        }
        self.held.extend(read);
        let (mut passed, mut rest) = (Vec::with_capacity(self.held.len()), self.held.as_slice());
        while let Some((frame, later)) = split(rest) {
            let (kind, channel) = (frame[0], [frame[1], frame[2]]);
            let delivery = kind == METHOD && frame.get(HEAD..HEAD + 4) == Some(&DELIVER[..]);
            if delivery && deaf.load(SeqCst) {
                self.dropping.insert(channel);
            } else if kind == METHOD {
                self.dropping.remove(&channel);
            }
            let content = CONTENT.contains(&kind) || delivery;
            if !(content && self.dropping.contains(&channel)) {
                passed.extend_from_slice(frame);
            }
            rest = later;
        }
        self.held = rest.to_vec();
        passed
    }
}

/// The first frame and what follows it.
fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let size = u32::from_be_bytes(bytes.get(3..HEAD)?.try_into().ok()?);
    let whole = HEAD + usize::try_from(size).ok()? + 1;
    bytes.split_at_checked(whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, channel: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![kind, 0, channel, 0, 0, 0, u8::try_from(payload.len()).expect("short")];
        frame.extend_from_slice(payload);
        frame.push(0xCE);
        frame
    }

    #[test]
    fn deliveries_are_left_out_and_all_else_passes() {
        let deaf = AtomicBool::new(true);
        let start = frame(METHOD, 0, &[0, 10, 0, 10, 1]);
        let mut delivery = frame(METHOD, 1, &[0, 60, 0, 60, 9, 9]);
        delivery.extend(frame(2, 1, b"header"));
        let body = frame(3, 1, b"body");
        let others: Vec<u8> =
            [frame(METHOD, 2, &[0, 60, 0, 80]), frame(3, 2, b"other"), frame(8, 0, b"")].concat();
        let all = [start.clone(), delivery.clone(), others.clone(), body.clone(), others.clone()].concat();
        for size in [1, 5, 8, all.len()] {
            let mut deliveries = Deliveries::default();
            let passed: Vec<u8> =
                all.chunks(size).flat_map(|read| deliveries.left_out(read.to_vec(), &deaf)).collect();
            assert_eq!(passed, [start.clone(), others.clone(), others.clone()].concat());
            deaf.store(false, SeqCst);
            let again = [delivery.clone(), body.clone()].concat();
            assert_eq!(deliveries.left_out(again.clone(), &deaf), again);
            deaf.store(true, SeqCst);
        }
        let answer = b"HTTP/1.1 200 OK".to_vec();
        assert_eq!(Deliveries::default().left_out(answer.clone(), &deaf), answer);
    }
}
