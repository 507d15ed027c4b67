//! How large the copy-on-write area of a thick snapshot is made, and when it cannot fill. Pure; bytes throughout.
//!
//! On disk such an area is a row of chunks: one header, then for every `chunk size / 16` chunks of data one chunk of
//! exceptions (16 bytes each). An area with room for every chunk of the origin cannot fill, however often origin and
//! snapshot are written: that is LVM's own maximum, beyond which it makes none larger. The last chunk of exceptions ends
//! the table, so that there is one more than the data needs when they come out even. Held to recordings of lvm2 2.03.16.

use crate::storage::{CowSize, SizePolicy, SizedSnapshot};

/// Chunk size with which snapshots are made; LVM's default, said explicitly so that sizes can be told beforehand.
pub const CHUNK_BYTES: u64 = 4096;
/// Bytes of one exception in the table.
const EXCEPTION_BYTES: u64 = 16;
/// Share of the used space that a release upgrade with a few days of production beside it is expected to rewrite, in
/// percent, where the inventory says nothing.
const ESTIMATE_PERCENT: u16 = 110;

/// Bytes at which the area of a snapshot cannot fill: LVM's own maximum, rounded up to whole extents.
pub fn covering(origin_bytes: u64, chunk_bytes: u64, extent_bytes: u64) -> u64 {
    let chunk = chunk_bytes.max(512);
    let data = origin_bytes.div_ceil(chunk);
    let per_chunk = (chunk / EXCEPTION_BYTES).max(1);
    let chunks = 1 + data + data / per_chunk + 1;
    whole(chunks.saturating_mul(chunk), extent_bytes)
}

/// Rounded up to whole extents.
pub fn whole(bytes: u64, extent_bytes: u64) -> u64 {
    bytes.div_ceil(extent_bytes.max(1)).saturating_mul(extent_bytes.max(1))
}

/// What is known when a size is chosen.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    /// Size of the origin.
    pub origin_bytes: u64,
    /// Bytes in use in its file system, if they could be counted.
    pub used_bytes: Option<u64>,
    /// Size of an extent of the volume group.
    pub extent_bytes: u64,
    /// Free bytes in the volume group.
    pub free_bytes: u64,
}

/// The size by a policy; without one covering if the volume group has room, else the estimate.
///
/// # Errors
/// Why there is no such size: no room, or used space that nobody knows.
pub fn choose(policy: Option<SizePolicy>, known: &Known) -> Result<SizedSnapshot, String> {
    let most = covering(known.origin_bytes, CHUNK_BYTES, known.extent_bytes);
    let covers = |why: &str| SizedSnapshot {
        size: CowSize::Covering,
        bytes: most,
        covering_bytes: most,
        why: format!("{}, {why}: cannot fill", amount(most)),
    };
    let used = |percent: u16| match known.used_bytes {
        Some(bytes) => Ok((share(bytes, percent), bytes)),
        None => {
            Err("the used space could not be counted; name the size in bytes or in percent of the whole".to_owned())
        }
    };
    let (wanted, reason) = match policy {
        Some(SizePolicy::Covering) => (most, "as set".to_owned()),
        None if most <= known.free_bytes => (most, "covering".to_owned()),
        Some(SizePolicy::Bytes(bytes)) => (bytes, "as set".to_owned()),
        Some(SizePolicy::PercentOrigin(percent)) => {
            (share(known.origin_bytes, percent), format!("as set: {percent} %"))
        }
        Some(SizePolicy::PercentUsed(percent)) => {
            let (bytes, of) = used(percent)?;
            (bytes, format!("as set: {percent} % of {} used", amount(of)))
        }
        None => {
            let (bytes, of) = used(ESTIMATE_PERCENT)?;
            let room = amount(known.free_bytes);
            (
                bytes,
                format!(
                    "estimate: {ESTIMATE_PERCENT} % of {} used; covering does not fit into {room} free",
                    amount(of)
                ),
            )
        }
    };
    let sized = if wanted >= most {
        covers(&reason)
    } else {
        let bytes = whole(wanted.max(CHUNK_BYTES * 4), known.extent_bytes).min(most);
        if bytes == most {
            covers(&reason)
        } else {
            let why = format!("{} ({reason}); it can fill: covering is {}", amount(bytes), amount(most));
            SizedSnapshot { size: CowSize::Bytes(bytes), bytes, covering_bytes: most, why }
        }
    };
    if sized.bytes > known.free_bytes {
        return Err(format!(
            "a snapshot of {} does not fit: {} are free",
            amount(sized.bytes),
            amount(known.free_bytes)
        ));
    }
    Ok(sized)
}

fn share(bytes: u64, percent: u16) -> u64 {
    u64::try_from(u128::from(bytes) * u128::from(percent) / 100).unwrap_or(u64::MAX)
}

/// Bytes as people say them.
pub fn amount(bytes: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    let size = bytes as f64;
    match bytes {
        0..=0x3ff => format!("{bytes} B"),
        0x400..=0xf_ffff => format!("{:.0} KiB", size / 1024.0),
        0x10_0000..=0x3fff_ffff => format!("{:.0} MiB", size / 1_048_576.0),
        _ => format!("{:.1} GiB", size / 1_073_741_824.0),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MIB: u64 = 1 << 20;

    fn known(origin: u64, used: u64, free: u64) -> Known {
        Known {
            origin_bytes: origin * MIB,
            used_bytes: Some(used * MIB),
            extent_bytes: 4 * MIB,
            free_bytes: free * MIB,
        }
    }

    /// 256 MiB → 260 MiB in 4 MiB extents, with chunks of 4 and of 64 KiB, filled to 98.85 % and 98.53 %.
    #[test]
    fn covering_is_what_was_recorded() {
        for (chunk, filled) in [(4096, "98.85"), (65536, "98.53")] {
            assert_eq!(covering(256 * MIB, chunk, 4 * MIB), 260 * MIB);
            #[expect(clippy::cast_precision_loss, reason = "a percentage")]
            let percent = covering(256 * MIB, chunk, 1) as f64 * 100.0 / (260 * MIB) as f64;
            assert_eq!(format!("{percent:.2}"), filled);
        }
    }

    #[test]
    fn policies_are_followed_and_explained() {
        let free = known(8192, 2100, 20_000);
        let chosen = choose(None, &free).unwrap();
        assert_eq!((chosen.size, chosen.bytes), (CowSize::Covering, 8228 * MIB));
        assert_eq!(chosen.why, "8.0 GiB, covering: cannot fill");
        let chosen = choose(Some(SizePolicy::PercentUsed(110)), &free).unwrap();
        assert_eq!(chosen.size, CowSize::Bytes(2312 * MIB));
        assert_eq!(chosen.why, "2.3 GiB (as set: 110 % of 2.1 GiB used); it can fill: covering is 8.0 GiB");
        assert_eq!(choose(Some(SizePolicy::PercentOrigin(20)), &free).unwrap().size, CowSize::Bytes(1640 * MIB));
        assert_eq!(choose(Some(SizePolicy::PercentOrigin(200)), &free).unwrap().size, CowSize::Covering);
        assert_eq!(choose(Some(SizePolicy::Bytes(1)), &free).unwrap().size, CowSize::Bytes(4 * MIB));
        let tight = known(8192, 2100, 3000);
        let estimate = choose(None, &tight).unwrap();
        assert_eq!(estimate.size, CowSize::Bytes(2312 * MIB));
        assert!(
            estimate.why.starts_with("2.3 GiB (estimate: 110 % of 2.1 GiB used; covering does not fit into 2.9 GiB")
        );
        assert!(choose(Some(SizePolicy::Covering), &tight).unwrap_err().contains("does not fit"));
        assert!(choose(None, &known(8192, 2100, 2000)).unwrap_err().contains("does not fit"));
        let blind = Known { used_bytes: None, ..tight };
        assert!(choose(None, &blind).unwrap_err().contains("could not be counted"));
    }

    proptest! {
        /// A model of the kernel's layout: data chunks are handed out one by one, and each time a table of exceptions is
        /// full the next chunk becomes a table. Covering has to have room for every chunk of the origin.
        #[test]
        fn covering_cannot_fill(origin in 1u64..64 * MIB, chunk_shift in 12u32..20, extent_shift in 12u32..24) {
            let chunk = 1u64 << chunk_shift;
            let room = covering(origin, chunk, 1 << extent_shift) / chunk;
            // Chunk 0 is the header, chunk 1 the first table.
            let (mut next, mut in_table) = (2u64, 0u64);
            for _ in 0..origin.div_ceil(chunk) {
                prop_assert!(next < room);
                next += 1;
                in_table += 1;
                if in_table == chunk / EXCEPTION_BYTES {
                    in_table = 0;
                    next += 1;
                }
            }
            prop_assert!(next <= room);
            // And it is not generous: a chunk less, and an extent less, would not do.
            prop_assert!(covering(origin, chunk, 1) <= (next + 1) * chunk);
        }

        #[test]
        fn what_is_chosen_fits_and_is_whole(
            origin in 1u64..100_000, used in 0u64..100_000, free in 0u64..200_000, percent in 1u16..1000, which in 0..5,
        ) {
            let policy = match which {
                0 => None,
                1 => Some(SizePolicy::Covering),
                2 => Some(SizePolicy::PercentOrigin(percent)),
                3 => Some(SizePolicy::PercentUsed(percent)),
                _ => Some(SizePolicy::Bytes(u64::from(percent) * MIB)),
            };
            let known = known(origin, used.min(origin), free);
            if let Ok(chosen) = choose(policy, &known) {
                prop_assert!(chosen.bytes <= known.free_bytes && chosen.bytes <= chosen.covering_bytes);
                prop_assert_eq!(chosen.bytes % known.extent_bytes, 0);
                prop_assert_eq!(chosen.size == CowSize::Covering, chosen.bytes == chosen.covering_bytes);
            } else {
                prop_assert!(free < origin + origin / 100 + 16);
            }
        }
    }
}
