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
}
