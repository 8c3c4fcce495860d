//! The store itself: buckets of objects in memory. A condition and the write that depends on it happen under one lock.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use s3s::{
    S3, S3Request, S3Response, S3Result,
    dto::{
        Bucket, CreateBucketInput, CreateBucketOutput, DeleteObjectInput, DeleteObjectOutput, ETag,
        ETagCondition, GetObjectInput, GetObjectOutput, HeadBucketInput, HeadBucketOutput, HeadObjectInput,
        HeadObjectOutput, ListBucketsInput, ListBucketsOutput, ListObjectsV2Input, ListObjectsV2Output,
        Object, PutObjectInput, PutObjectOutput, StorageClass, StreamingBlob, Timestamp,
    },
    s3_error,
};

/// The store. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Backend(Arc<Mutex<Store>>);

#[derive(Debug, Default)]
struct Store {
    buckets: BTreeMap<String, BTreeMap<String, Vec<Version>>>,
    versions: u64,
    ignores_conditions: bool,
    unlistable: BTreeSet<String>,
}

/// One version of an object.
#[derive(Clone, Debug)]
struct Version {
    id: String,
    chunks: Vec<Bytes>,
    length: u64,
    etag: String,
    written: SystemTime,
    archived: bool,
}

impl Backend {
    fn lock(&self) -> MutexGuard<'_, Store> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a bucket.
    pub fn add_bucket(&self, name: &str) {
        self.lock().buckets.entry(name.into()).or_default();
    }

    /// Puts an object. Gives its version id.
    #[expect(clippy::must_use_candidate, reason = "what changes the store also tells what it did")]
    pub fn put(&self, bucket: &str, key: &str, chunks: Vec<Bytes>) -> String {
        let mut store = self.lock();
        store.buckets.entry(bucket.into()).or_default();
        store.insert(bucket, key, chunks).map(|v| v.id).unwrap_or_default()
    }

    /// An object's bytes.
    #[must_use]
    pub fn get(&self, bucket: &str, key: &str) -> Option<Bytes> {
        let store = self.lock();
        let version = store.buckets.get(bucket)?.get(key)?.last()?.clone();
        Some(version.chunks.concat().into())
    }

    /// Keys that begin with a prefix.
    #[must_use]
    pub fn keys(&self, bucket: &str, prefix: &str) -> Vec<String> {
        let store = self.lock();
        store
            .buckets
            .get(bucket)
            .into_iter()
            .flat_map(BTreeMap::keys)
            .filter(|k| k.starts_with(prefix))
            .cloned()
            .collect()
    }

    /// Removes an object with all its versions.
    #[expect(clippy::must_use_candidate, reason = "what changes the store also tells what it did")]
    pub fn remove(&self, bucket: &str, key: &str) -> bool {
        self.lock().buckets.get_mut(bucket).is_some_and(|b| b.remove(key).is_some())
    }

    /// Writes whatever `If-Match` and `If-None-Match` say, as some stores do.
    pub fn ignore_conditions(&self, ignore: bool) {
        self.lock().ignores_conditions = ignore;
    }

    /// Takes the right `s3:ListBucket` of a bucket away: whether an object is missing is then told to nobody. Source: Amazon S3
    /// API Reference, `GetObject`, section "Permissions": without it a missing key is answered with 403.
    pub fn forbid_listing(&self, bucket: &str) {
        self.lock().unlistable.insert(bucket.into());
    }

    /// Moves an object to cold storage: GET answers `InvalidObjectState`.
    pub fn archive(&self, bucket: &str, key: &str) {
        if let Some(version) =
            self.lock().buckets.get_mut(bucket).and_then(|b| b.get_mut(key)).and_then(|v| v.last_mut())
        {
            version.archived = true;
        }
    }
}

impl Store {
    fn insert(&mut self, bucket: &str, key: &str, chunks: Vec<Bytes>) -> Option<Version> {
        self.versions += 1;
        let mut digest = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
        for chunk in &chunks {
            digest.update(chunk);
        }
        let etag =
            digest.finish().as_ref()[..16].iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().concat();
        let length = chunks.iter().map(|c| c.len() as u64).sum();
        let version = Version {
            id: format!("v{}", self.versions),
            chunks,
            length,
            etag,
            written: SystemTime::now(),
            archived: false,
        };
        self.buckets.get_mut(bucket)?.entry(key.into()).or_default().push(version.clone());
        Some(version)
    }

    fn find(&self, bucket: &str, key: &str, id: Option<&str>) -> S3Result<Version> {
        let objects = self.buckets.get(bucket).ok_or_else(|| s3_error!(NoSuchBucket))?;
        let versions = objects.get(key).filter(|v| !v.is_empty());
        let Some(versions) = versions else {
            self.may_list(bucket)?;
            return Err(s3_error!(NoSuchKey));
        };
        let version = match id {
            None => versions.last(),
            Some(id) => versions.iter().find(|v| v.id == id),
        };
        version.cloned().ok_or_else(|| s3_error!(NoSuchVersion))
    }

    fn may_list(&self, bucket: &str) -> S3Result<()> {
        if self.unlistable.contains(bucket) { Err(s3_error!(AccessDenied)) } else { Ok(()) }
    }
}

fn holds(condition: &ETagCondition, standing: Option<&Version>) -> bool {
    match (condition, standing) {
        (_, None) => false,
        (ETagCondition::Any, Some(_)) => true,
        (ETagCondition::ETag(etag), Some(version)) => etag.value() == version.etag,
    }
}

#[async_trait]
impl S3 for Backend {
    async fn create_bucket(
        &self,
        req: S3Request<CreateBucketInput>,
    ) -> S3Result<S3Response<CreateBucketOutput>> {
        self.add_bucket(&req.input.bucket);
        Ok(S3Response::new(CreateBucketOutput::default()))
    }

    async fn head_bucket(&self, req: S3Request<HeadBucketInput>) -> S3Result<S3Response<HeadBucketOutput>> {
        if self.lock().buckets.contains_key(&*req.input.bucket) {
            Ok(S3Response::new(HeadBucketOutput::default()))
        } else {
            Err(s3_error!(NoSuchBucket))
        }
    }

    async fn list_buckets(
        &self,
        _req: S3Request<ListBucketsInput>,
    ) -> S3Result<S3Response<ListBucketsOutput>> {
        let names: Vec<String> = self.lock().buckets.keys().cloned().collect();
        let buckets =
            names.into_iter().map(|name| Bucket { name: Some(name), ..Default::default() }).collect();
        Ok(S3Response::new(ListBucketsOutput { buckets: Some(buckets), ..Default::default() }))
    }

    async fn put_object(&self, req: S3Request<PutObjectInput>) -> S3Result<S3Response<PutObjectOutput>> {
        let input = req.input;
        let mut chunks = Vec::new();
        if let Some(mut body) = input.body {
            while let Some(chunk) = body.next().await {
                chunks.push(chunk.map_err(|_| s3_error!(IncompleteBody))?);
            }
        }
        let mut store = self.lock();
        let bucket = store.buckets.get(&*input.bucket).ok_or_else(|| s3_error!(NoSuchBucket))?;
        let standing = bucket.get(&input.key).and_then(|versions| versions.last());
        let conditions = !store.ignores_conditions;
        if input.if_none_match.is_some_and(|condition| conditions && holds(&condition, standing)) {
            return Err(s3_error!(PreconditionFailed));
        }
        match (input.if_match.filter(|_| conditions), standing) {
            (Some(_), None) => return Err(s3_error!(NoSuchKey)),
            (Some(condition), Some(_)) if !holds(&condition, standing) => {
                return Err(s3_error!(PreconditionFailed));
            }
            _ => {}
        }
        let version =
            store.insert(&input.bucket, &input.key, chunks).ok_or_else(|| s3_error!(NoSuchBucket))?;
        let output = PutObjectOutput {
            e_tag: Some(ETag::Strong(version.etag)),
            version_id: Some(version.id),
            ..Default::default()
        };
        Ok(S3Response::new(output))
    }

    async fn get_object(&self, req: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
        let input = req.input;
        let version = self.lock().find(&input.bucket, &input.key, input.version_id.as_deref())?;
        if version.archived {
            return Err(s3_error!(InvalidObjectState));
        }
        if input.if_match.is_some_and(|condition| !holds(&condition, Some(&version))) {
            return Err(s3_error!(PreconditionFailed));
        }
        let (range, content_range) = match input.range {
            None => (0..version.length, None),
            Some(range) => {
                let range = range.check(version.length).map_err(|_| s3_error!(InvalidRange))?;
                let text = format!("bytes {}-{}/{}", range.start, range.end - 1, version.length);
                (range, Some(text))
            }
        };
        let chunks = cut(version.chunks, range.clone());
        let body = StreamingBlob::wrap(stream::iter(chunks.into_iter().map(Ok::<_, std::io::Error>)));
        let output = GetObjectOutput {
            body: Some(body),
            content_length: i64::try_from(range.end - range.start).ok(),
            content_range,
            e_tag: Some(ETag::Strong(version.etag)),
            last_modified: Some(Timestamp::from(version.written)),
            version_id: Some(version.id),
            ..Default::default()
        };
        Ok(S3Response::new(output))
    }

    async fn head_object(&self, req: S3Request<HeadObjectInput>) -> S3Result<S3Response<HeadObjectOutput>> {
        let input = req.input;
        let version = self.lock().find(&input.bucket, &input.key, input.version_id.as_deref())?;
        let output = HeadObjectOutput {
            content_length: i64::try_from(version.length).ok(),
            e_tag: Some(ETag::Strong(version.etag)),
            last_modified: Some(Timestamp::from(version.written)),
            storage_class: version.archived.then(|| StorageClass::from_static(StorageClass::GLACIER)),
            version_id: Some(version.id),
            ..Default::default()
        };
        Ok(S3Response::new(output))
    }

    async fn delete_object(
        &self,
        req: S3Request<DeleteObjectInput>,
    ) -> S3Result<S3Response<DeleteObjectOutput>> {
        self.remove(&req.input.bucket, &req.input.key);
        Ok(S3Response::new(DeleteObjectOutput::default()))
    }

    async fn list_objects_v2(
        &self,
        req: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        let input = req.input;
        let prefix = input.prefix.clone().unwrap_or_default();
        let after = input.continuation_token.clone().or(input.start_after).unwrap_or_default();
        let most = usize::try_from(input.max_keys.unwrap_or(1_000)).unwrap_or(1_000);
        let store = self.lock();
        let bucket = store.buckets.get(&*input.bucket).ok_or_else(|| s3_error!(NoSuchBucket))?;
        store.may_list(&input.bucket)?;
        let mut found = bucket.iter().filter(|(key, _)| key.starts_with(&prefix) && **key > after);
        let contents: Vec<Object> = found
            .by_ref()
            .take(most)
            .filter_map(|(key, versions)| {
                let version = versions.last()?;
                Some(Object {
                    key: Some(key.clone()),
                    size: i64::try_from(version.length).ok(),
                    e_tag: Some(ETag::Strong(version.etag.clone())),
                    last_modified: Some(Timestamp::from(version.written)),
                    ..Default::default()
                })
            })
            .collect();
        let more = found.next().is_some();
        let next = more.then(|| contents.last().and_then(|o| o.key.clone())).flatten();
        let output = ListObjectsV2Output {
            key_count: i32::try_from(contents.len()).ok(),
            is_truncated: Some(more),
            next_continuation_token: next,
            contents: Some(contents),
            prefix: Some(prefix),
            ..Default::default()
        };
        Ok(S3Response::new(output))
    }
}

/// The part of the chunks that lies in the range, without copying.
fn cut(chunks: Vec<Bytes>, range: std::ops::Range<u64>) -> Vec<Bytes> {
    let mut at = 0_u64;
    let mut parts = Vec::new();
    for chunk in chunks {
        let end = at + chunk.len() as u64;
        let from = range.start.clamp(at, end) - at;
        let to = range.end.clamp(at, end) - at;
        if from < to {
            let index = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
            // Chunks of a size that a network would bring.
            let mut part = chunk.slice(index(from)..index(to));
            while part.len() > 64 * 1024 {
                parts.push(part.split_to(64 * 1024));
            }
            parts.push(part);
        }
        at = end;
    }
    parts
}
