//! Numbers, times and words as people read them. Pure.

use comfy_table::{Table, presets};
use jiff::Timestamp;
use prexor_format::{artifact::ArtifactKind, class::Class};
use prexor_proto::convert;

pub use prexor_format::text::{bytes, count, duration, things};

/// A point in time as people read it: `2026-05-10T08:00:00Z`.
pub fn time(t: Timestamp) -> String {
    t.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// A time on the wire as people read it; `-` when it is absent.
pub fn wire_time(t: Option<&prost_types::Timestamp>) -> String {
    t.and_then(|t| convert::time_from_wire(t).ok()).map_or_else(|| "-".to_owned(), time)
}

/// A scope on the wire as users type it: `mongo,valkey`.
pub fn scope(kinds: &[i32], separator: &str) -> String {
    kinds.iter().map(|kind| kind_word(*kind)).collect::<Vec<_>>().join(separator)
}

/// A kind on the wire as users type it.
pub fn kind_word(kind: i32) -> &'static str {
    convert::kind_from_wire(kind).map_or("unknown", ArtifactKind::as_str)
}

/// A class on the wire as users type it, if there is one.
pub fn class(class: i32) -> Option<&'static str> {
    convert::class_from_wire(class).ok().flatten().map(Class::as_str)
}

/// At most this many characters of a path or name, from its end, which tells more than its beginning.
pub fn end_of(text: &str, most: usize) -> String {
    let surplus = text.chars().count().saturating_sub(most);
    if surplus == 0 {
        text.to_owned()
    } else {
        text.chars().skip(surplus + 1).fold("…".to_owned(), |t, c| t + c.encode_utf8(&mut [0; 4]))
    }
}

/// Text from elsewhere (descriptions, paths, messages) on one line: nothing in it moves the cursor or hides itself.
pub fn clean(text: &str) -> String {
    let hidden = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
    };
    text.chars()
        .map(|c| {
            if c == '\n' || c == '\t' {
                ' '
            } else if hidden(c) {
                '\u{fffd}'
            } else {
                c
            }
        })
        .collect()
}

/// The lines of a table: columns two spaces apart, no frame.
pub fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> Vec<String> {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(header.iter().copied());
    for row in rows {
        table.add_row(row.iter().map(|cell| clean(cell)));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.lines().map(|line| line.trim_end().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        let t: Timestamp = "2026-05-10T08:00:00.999Z".parse().unwrap();
        assert_eq!(time(t), "2026-05-10T08:00:00Z");
        assert_eq!(wire_time(None), "-");
        assert_eq!(wire_time(Some(&prost_types::Timestamp { seconds: i64::MAX, nanos: 0 })), "-");
    }

    #[test]
    fn what_others_wrote_cannot_drive_the_terminal() {
        assert_eq!(clean("a\u{1b}[2Jb\r\nc\td\u{202e}e"), "a\u{fffd}[2Jb\u{fffd} c d\u{fffd}e");
        assert_eq!(clean("größe 大"), "größe 大");
    }

    #[test]
    fn long_names_keep_their_end() {
        assert_eq!(end_of("größe", 5), "größe");
        assert_eq!(end_of("a/größe", 5), "…röße");
        assert_eq!(end_of("", 5), "");
    }

    #[test]
    fn tables_align_and_end_clean() {
        let lines = table(&["ID", "SIZE"], [vec!["bk-1".into(), "142 MiB".into()], vec!["b".into(), "x\ny".into()]]);
        assert_eq!(lines, ["ID    SIZE", "bk-1  142 MiB", "b     x y"]);
    }
}
