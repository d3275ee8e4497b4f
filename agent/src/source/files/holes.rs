//! Where the data of a file is (lseek(2), `SEEK_DATA` and `SEEK_HOLE`).

use std::fs::File;

use prexor_format::tree::{Extent, MAX_EXTENTS, SparseMap};
use rustix::{fs::SeekFrom, io::Errno};

/// What extents are cut to: a tar keeps whole blocks.
const BLOCK: u64 = 512;

/// The map of a file of `size` bytes, or `None` when it has no holes, or nobody can tell. It is what was true at some
/// time: the file may change. Moves the place at which the file is read.
pub(super) fn map(file: &File, size: u64) -> Option<SparseMap> {
    let map = SparseMap::new(extents(file, size).ok()?, size).ok()?;
    (map.data() < size).then_some(map)
}

fn extents(file: &File, size: u64) -> Result<Vec<Extent>, Errno> {
    let mut out: Vec<Extent> = Vec::new();
    let mut at = 0;
    while at < size {
        let begin = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(begin) if begin < size => begin,
            // There is no more data.
            Ok(_) | Err(Errno::NXIO) => break,
            Err(e) => return Err(e),
        };
        let last = out.len() + 1 == MAX_EXTENTS;
        let end = if last { size } else { rustix::fs::seek(file, SeekFrom::Hole(begin))?.max(begin + 1) };
        let end = end.next_multiple_of(BLOCK).min(size);
        // Where the one before was rounded up into this block.
        let begin = (begin - begin % BLOCK).max(out.last().map_or(0, |e| e.offset + e.len));
        if end > begin {
            out.push(Extent { offset: begin, len: end - begin });
        }
        at = end;
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use super::*;

    #[test]
    fn holes_are_found_where_they_are() {
        let file = tempfile::tempfile().unwrap();
        let of = |size| map(&file, size).map(|m| m.data());
        assert_eq!(of(0), None);
        file.set_len(1 << 40).unwrap();
        assert_eq!(of(1 << 40), Some(0));
        file.write_all_at(&[1; 10], 1 << 30).unwrap();
        let data = of(1 << 40).unwrap();
        assert!((10..=1 << 20).contains(&data), "{data}");
        // It shrank to a size in its middle since that was announced.
        assert_eq!(of(5), Some(0));
        file.set_len(0).unwrap();
        assert_eq!(of(1 << 20), Some(0));
        file.write_all_at(&[1; 10_000], 0).unwrap();
        assert_eq!(of(10_000), None);
    }

    #[test]
    fn what_lies_behind_too_many_pieces_is_kept_as_data() {
        let file = tempfile::tempfile().unwrap();
        let step = 1 << 20;
        for n in 0..MAX_EXTENTS as u64 + 10 {
            file.write_all_at(b"x", n * step).unwrap();
        }
        let size = (MAX_EXTENTS as u64 + 20) * step;
        file.set_len(size).unwrap();
        let data = map(&file, size).unwrap().data();
        assert!(data > 21 * step && data < size / 4, "{data}");
    }
}
