//! Which files a verify reads that reads only some. Pure: the same seed chooses the same files, another one others.

use std::collections::BTreeSet;

use prexor_format::{digest::Sha256Digest, manifest::StoredFile};

/// Files that make up at least this part of the bytes of all, in an order that the seed decides; never none of some.
pub(super) fn sample<'f>(
    files: impl IntoIterator<Item = &'f StoredFile>,
    percent: u32,
    seed: &str,
) -> BTreeSet<String> {
    let mut files: Vec<&StoredFile> = files.into_iter().collect();
    files.sort_by_cached_key(|file| Sha256Digest::of(format!("{seed}\n{}", file.path).as_bytes()).0);
    let total: u128 = files.iter().map(|file| u128::from(file.size_bytes)).sum();
    let wanted = total * u128::from(percent.min(100));
    let (mut chosen, mut bytes) = (BTreeSet::new(), 0_u128);
    for file in files {
        if !chosen.is_empty() && bytes * 100 >= wanted {
            break;
        }
        bytes += u128::from(file.size_bytes);
        chosen.insert(file.path.clone());
    }
    chosen
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn files(sizes: &[u64]) -> Vec<StoredFile> {
        let file = |(n, size): (usize, &u64)| StoredFile {
            path: format!("mongo/{n}"),
            size_bytes: *size,
            sha256: Sha256Digest::of(b"x"),
        };
        sizes.iter().enumerate().map(file).collect()
    }

    #[test]
    fn another_seed_reads_other_files_until_all_were_read() {
        let files = files(&[10; 20]);
        assert_eq!(sample(&files, 10, "job-1"), sample(&files, 10, "job-1"));
        let read: BTreeSet<String> = (0..200).flat_map(|n| sample(&files, 10, &format!("job-{n}"))).collect();
        assert_eq!(read.len(), 20);
    }

    proptest! {
        #[test]
        fn a_sample_has_its_part_of_the_bytes_and_no_file_more(
            sizes in proptest::collection::vec(0..1000_u64, 1..20), percent in 1..=100_u32, seed in "[a-z]{4}"
        ) {
            let files = files(&sizes);
            let chosen = sample(&files, percent, &seed);
            let of = |all: &BTreeSet<String>| -> u64 {
                files.iter().filter(|f| all.contains(&f.path)).map(|f| f.size_bytes).sum()
            };
            let total: u64 = sizes.iter().sum();
            prop_assert!(!chosen.is_empty() && of(&chosen) * 100 >= total * u64::from(percent));
            let largest = files.iter().filter(|f| chosen.contains(&f.path)).map(|f| f.size_bytes).max().unwrap_or(0);
            prop_assert!(chosen.len() == 1 || (of(&chosen) - largest) * 100 < total * u64::from(percent));
        }
    }
}
