//! Which shard a mailbox belongs to.

use aws_lc_rs::digest::{SHA256, digest};

/// The shard of a mailbox among `count` (at least 1): the first eight bytes (big endian) of the SHA-256 of its id, modulo `count`.
#[must_use]
pub fn shard_of(mailbox_id: &str, count: u32) -> u32 {
    let hash = digest(&SHA256, mailbox_id.as_bytes());
    let first = hash.as_ref().iter().take(8).fold(0_u64, |n, byte| n << 8 | u64::from(*byte));
    u32::try_from(first % u64::from(count.max(1))).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::shard_of;

    /// Computed with Python: `int.from_bytes(sha256(id).digest()[:8], "big") % n`.
    #[test]
    fn vectors() {
        for (id, of_64, of_7) in VECTORS {
            assert_eq!((shard_of(id, 64), shard_of(id, 7), shard_of(id, 1)), (*of_64, *of_7, 0), "{id}");
        }
    }

    const VECTORS: &[(&str, u32, u32)] = &[
        ("MBX:e0643f21@a7809c93", 63, 2),
        ("MBX:e0643f21-0000-4000-8000-000000000003@a7809c93-0000-4000-8000-000000000001", 36, 6),
        ("m", 49, 6),
        ("ünïcode", 50, 1),
    ];
}
