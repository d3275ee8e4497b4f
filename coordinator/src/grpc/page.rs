//! Page tokens: where the last entry of a page stands in its list, and its id, so that pages stay right while entries come
//! and go.

use crate::error::Error;

/// Entries of a page when the caller does not say.
const DEFAULT: u32 = 100;
/// The most that a caller gets.
const MAX: u32 = 1000;

/// The number of entries to return.
pub(super) fn size(asked: u32) -> u32 {
    if asked == 0 { DEFAULT } else { asked.min(MAX) }
}

/// Bytes of a page, about: below what clients take in one message, and enough to be worth a call.
const MAX_BYTES: usize = 2 << 20;

/// How many entries of these sizes make a page; one at least.
pub(super) fn fitting(sizes: impl Iterator<Item = usize>) -> usize {
    let mut bytes = 0;
    let fit = sizes.take_while(|size| {
        let first = bytes == 0;
        bytes += size;
        first || bytes <= MAX_BYTES
    });
    fit.count()
}

/// Where the page before ended; `None` for the first page.
pub(super) fn parse(token: &str) -> Result<Option<(i64, &str)>, Error> {
    if token.is_empty() {
        return Ok(None);
    }
    let parts = token.split_once('/').and_then(|(order, id)| Some((order.parse().ok()?, id)));
    parts.map(Some).ok_or_else(|| Error::invalid("this is not a page token: take next_page_token of the page before"))
}

/// The token that continues after this entry.
pub(super) fn after(order: i64, id: &str) -> String {
    format!("{order}/{id}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_come_back() {
        let token = after(1234, "job-1");
        assert_eq!(parse(&token).unwrap(), Some((1234, "job-1")));
        assert_eq!(parse("").unwrap(), None);
        assert!(parse("x").is_err() && parse("x/y").is_err());
        assert_eq!((size(0), size(7), size(5000)), (100, 7, 1000));
    }

    #[test]
    fn pages_end_before_they_are_too_long() {
        let of = |sizes: &[usize]| fitting(sizes.iter().copied());
        assert_eq!((of(&[]), of(&[1, 2]), of(&[MAX_BYTES, 1])), (0, 2, 1));
        assert_eq!(of(&[2 * MAX_BYTES, 1]), 1, "one at least");
    }
}
