//! One GET: an object's bytes as they are stored, with a limit on every wait.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use aws_sdk_s3::{operation::get_object::GetObjectOutput, primitives::ByteStream};
use bytes::Bytes;
use futures_util::Stream;
use prometheus::IntCounter;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::{
    domain::{BlobRef, ByteRange, RestoreError},
    s3_client::{Client, Failure},
};

use super::answer;

/// Which state of an object was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Version {
    pub(super) etag: Option<String>,
    /// Only where the bucket keeps versions.
    id: Option<String>,
}

/// An object's bytes (or a range of them), as a stream that ends with exactly `length` bytes or an error. The error of
/// an item is an [`io::Error`] around a [`RestoreError`].
#[derive(Debug)]
pub struct Object {
    /// How many bytes will come.
    pub length: u64,
    pub(super) version: Version,
    body: ByteStream,
    received: u64,
    patience: Patience,
    counter: Option<IntCounter>,
    ended: bool,
}

/// Asks for a blob's stored bytes; with `same_as` only for that very state of the object.
pub(super) async fn get(
    client: &Client,
    blob: &BlobRef,
    same_as: Option<&Version>,
) -> Result<Object, RestoreError> {
    let mut request = client.get_object().bucket(&blob.bucket).key(&blob.key);
    request =
        request.set_version_id(blob.version_id.clone()).set_range(blob.range.as_ref().map(range_header));
    if let Some(version) = same_as {
        request = match &version.id {
            Some(id) => request.version_id(id),
            None => request.set_if_match(version.etag.clone()),
        };
    }
    let output = request.send().await.map_err(|error| answer::judge(&Failure::read(&error), blob))?;
    let object = Object::of(output, blob.range)?;
    match same_as {
        Some(version) if version.etag != object.version.etag => Err(answer::changed()),
        _ => Ok(object),
    }
}

fn range_header(range: &ByteRange) -> String {
    // The contract's ranges have a length of at least 1.
    let last = range.offset.saturating_add(range.length.saturating_sub(1));
    format!("bytes={}-{last}", range.offset)
}

impl Object {
    fn of(output: GetObjectOutput, range: Option<ByteRange>) -> Result<Self, RestoreError> {
        let length = output.content_length().and_then(|length| u64::try_from(length).ok());
        let Some(length) = length else {
            return Err(answer::passing("the storage answered without a length"));
        };
        if let Some(range) = range {
            check_range(range, length, output.content_range())?;
        }
        let version = Version {
            etag: output.e_tag().map(str::to_owned),
            // "null" is what servers say where no versions are kept; it names whatever is there.
            id: output.version_id().filter(|id| *id != "null").map(str::to_owned),
        };
        Ok(Self {
            length,
            version,
            body: output.body,
            received: 0,
            patience: Patience::new(Duration::MAX, u64::MAX),
            counter: None,
            ended: false,
        })
    }

    /// The same object with limits on its waits, counted.
    pub(super) fn limited(mut self, patience: Duration, rate: u64, counter: IntCounter) -> Self {
        self.patience = Patience::new(patience, rate);
        self.counter = Some(counter);
        self
    }

    fn took(&mut self, bytes: &Bytes) -> Result<(), RestoreError> {
        let count = bytes.len() as u64;
        self.received += count;
        self.patience.served(count);
        if let Some(counter) = &self.counter {
            counter.inc_by(count);
        }
        if self.received > self.length {
            Err(answer::passing("the storage sent more bytes than it said"))
        } else {
            Ok(())
        }
    }

    fn broke(&self, why: &str) -> RestoreError {
        answer::passing(format!("the object's bytes {why} after {} of {}", self.received, self.length))
    }
}

/// A range must be answered with itself: a server may cut it at the object's end, or ignore it.
fn check_range(range: ByteRange, length: u64, told: Option<&str>) -> Result<(), RestoreError> {
    let begins = told.is_some_and(|told| {
        told.trim_start_matches("bytes")
            .trim_start_matches([' ', '='])
            .starts_with(&format!("{}-", range.offset))
    });
    match length {
        _ if !begins => Err(answer::passing("the storage did not answer with the range")),
        length if length < range.length => Err(answer::corrupt(format!(
            "the object ends inside the range: {length} of {} bytes",
            range.length
        ))),
        length if length > range.length => {
            Err(answer::passing("the storage answered with more than the range"))
        }
        _ => Ok(()),
    }
}

impl Stream for Object {
    type Item = io::Result<Bytes>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if this.ended {
            return Poll::Ready(None);
        }
        let result = match Pin::new(&mut this.body).poll_next(cx) {
            Poll::Ready(Some(Ok(bytes))) => this.took(&bytes).map(|()| Some(bytes)),
            Poll::Ready(Some(Err(_))) => Err(this.broke("broke off")),
            Poll::Ready(None) if this.received < this.length => Err(this.broke("ended")),
            Poll::Ready(None) => Ok(None),
            Poll::Pending if this.patience.is_over(cx) => Err(this.broke("came too slowly, given up")),
            Poll::Pending => return Poll::Pending,
        };
        this.ended = !matches!(result, Ok(Some(_)));
        Poll::Ready(result.map_err(io::Error::other).transpose())
    }
}

/// How long storage is still waited for: a store of time that waiting empties and bytes fill, `patience` at most. So no
/// single pause is longer than `patience`, and no body is slower than `rate` for long. Time in which nobody asked for
/// bytes (Exchange is the slow side) costs nothing.
#[derive(Debug)]
struct Patience {
    most: Duration,
    rate: u64,
    left: Duration,
    waiting: Option<(Instant, Pin<Box<Sleep>>)>,
}

impl Patience {
    fn new(most: Duration, rate: u64) -> Self {
        Self { most, rate: rate.max(1), left: most, waiting: None }
    }

    /// Storage keeps us waiting. Whether for too long; otherwise wakes the task when it is.
    fn is_over(&mut self, cx: &mut Context<'_>) -> bool {
        let left = self.left;
        let (_, sleep) = self.waiting.get_or_insert_with(|| {
            let now = Instant::now();
            // A far future, where the sum would be none: thirty years, as tokio itself does.
            let until = now.checked_add(left).unwrap_or_else(|| now + Duration::from_hours(24 * 365 * 30));
            (now, Box::pin(sleep_until(until)))
        });
        sleep.as_mut().poll(cx).is_ready()
    }

    fn served(&mut self, bytes: u64) {
        if let Some((since, _)) = self.waiting.take() {
            self.left = self.left.saturating_sub(since.elapsed());
        }
        let earned = Duration::from_micros(bytes.saturating_mul(1_000_000) / self.rate);
        self.left = self.left.saturating_add(earned).min(self.most);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::{StreamExt as _, future::poll_fn};

    fn object(length: u64, chunks: Vec<io::Result<Bytes>>) -> Object {
        let body = aws_sdk_s3::primitives::SdkBody::from_body_1_x(Chunks(chunks.into_iter()));
        let output = GetObjectOutput::builder()
            .content_length(i64::try_from(length).expect("small"))
            .body(ByteStream::new(body))
            .build();
        Object::of(output, None).expect("an object")
    }

    struct Chunks(std::vec::IntoIter<io::Result<Bytes>>);

    impl http_body::Body for Chunks {
        type Data = Bytes;
        type Error = io::Error;
        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<io::Result<http_body::Frame<Bytes>>>> {
            Poll::Ready(self.0.next().map(|chunk| chunk.map(http_body::Frame::data)))
        }
    }

    #[tokio::test]
    async fn a_body_has_exactly_its_length_or_an_error() {
        let chunk = || Ok(Bytes::from_static(b"12345"));
        for (name, length, chunks, ends_well) in [
            ("exact", 10, vec![chunk(), chunk()], true),
            ("empty", 0, vec![], true),
            ("too short", 11, vec![chunk(), chunk()], false),
            ("too long", 9, vec![chunk(), chunk()], false),
            ("broken", 10, vec![chunk(), Err(io::Error::other("reset"))], false),
        ] {
            let items: Vec<_> = object(length, chunks).collect().await;
            let error = items.into_iter().find_map(Result::err);
            assert_eq!(error.is_none(), ends_well, "{name}: {error:?}");
            if let Some(error) = error {
                let error = error.downcast::<RestoreError>().expect("a RestoreError");
                assert_eq!(error.reason, crate::domain::Reason::StorageUnavailable, "{name}");
            }
        }
    }

    #[test]
    fn a_range_must_be_answered_with_itself() {
        let range = ByteRange { offset: 10, length: 5 };
        for (length, told, word) in [
            (5, Some("bytes 10-14/100"), "ok"),
            (5, Some("bytes 0-4/100"), "storage_unavailable"),
            (5, Some("bytes 100-104/200"), "storage_unavailable"),
            (3, Some("bytes 10-12/13"), "blob_corrupt"),
            (100, None, "storage_unavailable"),
        ] {
            let got = check_range(range, length, told).map_or_else(|error| error.reason.as_str(), |()| "ok");
            assert_eq!(got, word, "{length} {told:?}");
        }
        assert_eq!(range_header(&range), "bytes=10-14");
    }

    async fn wait(patience: &mut Patience, most: Duration) -> bool {
        tokio::time::timeout(
            most,
            poll_fn(|cx| if patience.is_over(cx) { Poll::Ready(()) } else { Poll::Pending }),
        )
        .await
        .is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn patience_ends_in_a_pause_and_in_a_trickle_but_not_while_nobody_asks() {
        let second = Duration::from_secs(1);
        let mut patience = Patience::new(second * 30, 1_000);
        assert!(!wait(&mut patience, second * 29).await);
        patience.served(60_000);
        tokio::time::sleep(second * 1_000).await;
        assert!(!wait(&mut patience, second * 29).await, "filled up again, and idle time is free");
        assert!(wait(&mut patience, second * 2).await, "one long pause");

        let mut patience = Patience::new(second * 30, 1_000);
        let mut waited = 0;
        while !wait(&mut patience, second).await {
            patience.served(500);
            waited += 1;
        }
        assert!((55..65).contains(&waited), "half the rate lasts twice as long: {waited}");
    }
}
