//! Canonical Extended JSON v2 (MongoDB's specification of that name), straight from and to BSON bytes.
//!
//! Reading also takes the plain numbers that older tools wrote. An object becomes a typed value only when it has
//! exactly the keys and types of that value's form; `{"$regex": ...}` stays a document, as in queries and validators.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bson::Decimal128;

use super::json::Json;
use crate::bson::{BsonError, DocBuilder, Element, Elements, kind};

/// Bytes or text that have no counterpart on the other side.
#[derive(Debug, thiserror::Error)]
pub enum ExtJsonError {
    /// The BSON is malformed.
    #[error(transparent)]
    Bson(#[from] BsonError),
    /// A name or string that is no UTF-8: JSON cannot hold it.
    #[error("text that is no UTF-8 cannot be written as JSON")]
    Text,
    /// The JSON is malformed.
    #[error("malformed JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// A value whose form is right and whose content is not.
    #[error("'{0}' is not the content of a {1}")]
    Value(String, &'static str),
}

/// Appends the document or array `doc` to `out`.
pub(super) fn write(doc: &[u8], array: bool, out: &mut String) -> Result<(), ExtJsonError> {
    out.push(if array { '[' } else { '{' });
    for (i, element) in Elements::of(doc)?.enumerate() {
        let element = element?;
        if i > 0 {
            out.push(',');
        }
        if !array {
            write_string(text(element.name)?, out);
            out.push(':');
        }
        write_value(&element, out)?;
    }
    out.push(if array { ']' } else { '}' });
    Ok(())
}

/// A document as canonical Extended JSON.
///
/// # Errors
/// When it is malformed or holds text that is no UTF-8.
pub fn document_to_json(doc: &[u8]) -> Result<String, ExtJsonError> {
    let mut out = String::new();
    write(doc, false, &mut out)?;
    Ok(out)
}

fn write_value(e: &Element<'_>, out: &mut String) -> Result<(), ExtJsonError> {
    let v = e.value;
    let wrapped = |key: &str, content: &str, out: &mut String| {
        out.push_str("{\"");
        out.push_str(key);
        out.push_str("\":");
        write_string(content, out);
        out.push('}');
    };
    match e.kind {
        kind::DOUBLE => wrapped("$numberDouble", &double(f64::from_le_bytes(array(v))), out),
        kind::STRING => write_string(text(string_of(v))?, out),
        kind::DOCUMENT => write(v, false, out)?,
        kind::ARRAY => write(v, true, out)?,
        kind::BINARY => {
            // Subtype 2 repeats the length inside; Extended JSON shows the data only.
            let data = if v[4] == 2 && v.len() >= 9 { &v[9..] } else { &v[5..] };
            out.push_str(&format!(
                "{{\"$binary\":{{\"base64\":\"{}\",\"subType\":\"{:02x}\"}}}}",
                BASE64_STANDARD.encode(data),
                v[4]
            ));
        }
        kind::UNDEFINED => out.push_str("{\"$undefined\":true}"),
        kind::OBJECT_ID => wrapped("$oid", &hex::encode(v), out),
        kind::BOOLEAN => out.push_str(if v == [0] { "false" } else { "true" }),
        kind::DATE => out.push_str(&format!("{{\"$date\":{{\"$numberLong\":\"{}\"}}}}", i64::from_le_bytes(array(v)))),
        kind::NULL => out.push_str("null"),
        kind::REGEX => {
            let mut parts = v.split(|b| *b == 0);
            out.push_str("{\"$regularExpression\":{\"pattern\":");
            write_string(text(parts.next().unwrap_or_default())?, out);
            out.push_str(",\"options\":");
            write_string(text(parts.next().unwrap_or_default())?, out);
            out.push_str("}}");
        }
        kind::DB_POINTER => {
            out.push_str("{\"$dbPointer\":{\"$ref\":");
            write_string(text(&v[4..v.len() - 13])?, out);
            out.push_str(&format!(",\"$id\":{{\"$oid\":\"{}\"}}}}}}", hex::encode(&v[v.len() - 12..])));
        }
        kind::CODE => wrapped("$code", text(string_of(v))?, out),
        kind::SYMBOL => wrapped("$symbol", text(string_of(v))?, out),
        kind::CODE_WITH_SCOPE => {
            let code_len = u32::from_le_bytes(array(&v[4..8])) as usize;
            out.push_str("{\"$code\":");
            write_string(text(&v[8..8 + code_len - 1])?, out);
            out.push_str(",\"$scope\":");
            write(&v[8 + code_len..], false, out)?;
            out.push('}');
        }
        kind::INT32 => wrapped("$numberInt", &i32::from_le_bytes(array(v)).to_string(), out),
        kind::TIMESTAMP => {
            let (i, t) = (u32::from_le_bytes(array(&v[..4])), u32::from_le_bytes(array(&v[4..])));
            out.push_str(&format!("{{\"$timestamp\":{{\"t\":{t},\"i\":{i}}}}}"));
        }
        kind::INT64 => wrapped("$numberLong", &i64::from_le_bytes(array(v)).to_string(), out),
        kind::DECIMAL128 => wrapped("$numberDecimal", &Decimal128::from_bytes(array(v)).to_string(), out),
        kind::MIN_KEY => out.push_str("{\"$minKey\":1}"),
        _ => out.push_str("{\"$maxKey\":1}"),
    }
    Ok(())
}

/// The document that `members` describe.
pub(super) fn document(members: &[(String, Json)]) -> Result<Vec<u8>, ExtJsonError> {
    let mut out = DocBuilder::new();
    for (name, value) in members {
        append(&mut out, name, value)?;
    }
    Ok(out.finish())
}

fn append(out: &mut DocBuilder, name: &str, value: &Json) -> Result<(), ExtJsonError> {
    if name.contains('\0') {
        return Err(ExtJsonError::Value(name.replace('\0', "\\0"), "name: it holds a zero byte"));
    }
    match value {
        Json::Null => out.raw(kind::NULL, name.as_bytes(), b""),
        Json::Bool(b) => out.boolean(name, *b),
        Json::Int(i) => match i32::try_from(*i) {
            Ok(i) => out.int32(name, i),
            Err(_) => out.int64(name, *i),
        },
        Json::Float(d) => out.raw(kind::DOUBLE, name.as_bytes(), &d.to_le_bytes()),
        Json::String(s) => out.string(name, s),
        Json::Array(items) => {
            let mut array = DocBuilder::new();
            for (i, item) in items.iter().enumerate() {
                append(&mut array, &i.to_string(), item)?;
            }
            out.raw(kind::ARRAY, name.as_bytes(), &array.finish())
        }
        Json::Object(members) => match typed(members)? {
            Some((kind, value)) => out.raw(kind, name.as_bytes(), &value),
            None => out.document(name, &document(members)?),
        },
    };
    Ok(())
}

/// The value that an object with a type's form stands for, or `None` when it is an ordinary document.
fn typed(members: &[(String, Json)]) -> Result<Option<(u8, Vec<u8>)>, ExtJsonError> {
    let bad = |s: &str, what| ExtJsonError::Value(s.to_owned(), what);
    let one = |key: &str, value: &Json| -> Result<Option<(u8, Vec<u8>)>, ExtJsonError> {
        Ok(Some(match (key, value) {
            ("$numberInt", Json::String(s)) => {
                (kind::INT32, s.parse::<i32>().map_err(|_| bad(s, "$numberInt"))?.to_le_bytes().to_vec())
            }
            ("$numberLong", Json::String(s)) => {
                (kind::INT64, s.parse::<i64>().map_err(|_| bad(s, "$numberLong"))?.to_le_bytes().to_vec())
            }
            ("$numberDouble", Json::String(s)) => {
                let d = s.parse::<f64>().map_err(|_| bad(s, "$numberDouble"))?;
                // One NaN, as there is one way to write it.
                (kind::DOUBLE, if d.is_nan() { f64::NAN } else { d }.to_le_bytes().to_vec())
            }
            ("$numberDecimal", Json::String(s)) => {
                let d = s.parse::<Decimal128>().map_err(|_| bad(s, "$numberDecimal"))?;
                (kind::DECIMAL128, d.bytes().to_vec())
            }
            ("$oid", Json::String(s)) => {
                let mut oid = [0; 12];
                hex::decode_to_slice(s, &mut oid).map_err(|_| bad(s, "$oid"))?;
                (kind::OBJECT_ID, oid.to_vec())
            }
            ("$symbol", Json::String(s)) => (kind::SYMBOL, crate::bson::string_value(s)),
            ("$code", Json::String(s)) => (kind::CODE, crate::bson::string_value(s)),
            ("$undefined", Json::Bool(true)) => (kind::UNDEFINED, Vec::new()),
            ("$minKey", Json::Int(1)) => (kind::MIN_KEY, Vec::new()),
            ("$maxKey", Json::Int(1)) => (kind::MAX_KEY, Vec::new()),
            ("$date", Json::Object(inner)) => match typed(inner)? {
                Some((kind::INT64, millis)) => (kind::DATE, millis),
                _ => return Ok(None),
            },
            ("$timestamp", Json::Object(inner)) => match &inner[..] {
                [(t, Json::Int(seconds)), (i, Json::Int(increment))] if t == "t" && i == "i" => {
                    let half = |n: &i64| u32::try_from(*n).map_err(|_| bad(&n.to_string(), "$timestamp"));
                    (kind::TIMESTAMP, [half(increment)?.to_le_bytes(), half(seconds)?.to_le_bytes()].concat())
                }
                _ => return Ok(None),
            },
            ("$binary", Json::Object(inner)) => match &inner[..] {
                [(b, Json::String(data)), (s, Json::String(subtype))] if b == "base64" && s == "subType" => {
                    (kind::BINARY, binary(data, subtype)?)
                }
                _ => return Ok(None),
            },
            ("$regularExpression", Json::Object(inner)) => match &inner[..] {
                [(p, Json::String(pattern)), (o, Json::String(options))] if p == "pattern" && o == "options" => {
                    if pattern.contains('\0') || options.contains('\0') {
                        return Err(bad("a zero byte", "$regularExpression"));
                    }
                    (kind::REGEX, [pattern.as_bytes(), &[0], options.as_bytes(), &[0]].concat())
                }
                _ => return Ok(None),
            },
            ("$dbPointer", Json::Object(inner)) => match &inner[..] {
                [(r, Json::String(ns)), (i, Json::Object(id))] if r == "$ref" && i == "$id" => match typed(id)? {
                    Some((kind::OBJECT_ID, id)) => (kind::DB_POINTER, [crate::bson::string_value(ns), id].concat()),
                    _ => return Ok(None),
                },
                _ => return Ok(None),
            },
            _ => return Ok(None),
        }))
    };
    match members {
        [(key, value)] => one(key, value),
        [(c, code), (s, Json::Object(scope))] if c == "$code" && s == "$scope" => {
            let Some(code) = code.as_str() else { return Ok(None) };
            let rest = [crate::bson::string_value(code), document(scope)?].concat();
            let len = i32::try_from(rest.len() + 4).map_err(|_| bad("its length", "$code"))?;
            Ok(Some((kind::CODE_WITH_SCOPE, [&len.to_le_bytes(), &rest[..]].concat())))
        }
        _ => Ok(None),
    }
}

fn binary(data: &str, subtype: &str) -> Result<Vec<u8>, ExtJsonError> {
    let data = BASE64_STANDARD.decode(data).map_err(|_| ExtJsonError::Value(data.to_owned(), "$binary"))?;
    let sub = u8::from_str_radix(subtype, 16).map_err(|_| ExtJsonError::Value(subtype.to_owned(), "$binary"))?;
    let len = |n: usize| i32::try_from(n).map_err(|_| ExtJsonError::Value("its length".to_owned(), "$binary"));
    let data = if sub == 2 { [&len(data.len())?.to_le_bytes(), &data[..]].concat() } else { data };
    Ok([&len(data.len())?.to_le_bytes(), &[sub][..], &data].concat())
}

fn text(bytes: &[u8]) -> Result<&str, ExtJsonError> {
    std::str::from_utf8(bytes).map_err(|_| ExtJsonError::Text)
}

fn string_of(value: &[u8]) -> &[u8] {
    &value[4..value.len() - 1]
}

fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[..N]);
    out
}

/// As Go's driver writes doubles: shortest digits that read back equal, always with a point or an exponent.
fn double(d: f64) -> String {
    if d.is_nan() {
        "NaN".to_owned()
    } else if d.is_infinite() {
        if d > 0.0 { "Infinity" } else { "-Infinity" }.to_owned()
    } else if d != 0.0 && !(1e-5..1e21).contains(&d.abs()) {
        let (mantissa, exponent) = { format!("{d:E}") }
            .split_once('E')
            .map_or_else(|| (d.to_string(), 0), |(m, e)| (m.to_owned(), e.parse::<i32>().unwrap_or_default()));
        format!("{mantissa}E{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
    } else {
        format!("{d:?}")
    }
}

fn write_string(s: &str, out: &mut String) {
    out.push('"');
    for c in s.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            c if u32::from(c) < 0x20 || matches!(c, '\u{2028}' | '\u{2029}') => {
                out.push_str(&format!("\\u{:04x}", u32::from(c)))
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::bson::EMPTY_DOCUMENT;

    fn back(json: &str) -> Result<Vec<u8>, ExtJsonError> {
        match serde_json::from_str(json)? {
            Json::Object(members) => document(&members),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_type_goes_there_and_back() {
        let mut b = DocBuilder::new();
        for (i, d) in [0.0, -0.0, 1.0, 0.1, 1e21, 1.5e-7, f64::MAX, f64::INFINITY, f64::NEG_INFINITY].iter().enumerate()
        {
            b.raw(kind::DOUBLE, format!("d{i}").as_bytes(), &d.to_le_bytes());
        }
        b.string("s", "a\"\\\n\u{1}\u{2028}ä\0")
            .document("empty", EMPTY_DOCUMENT)
            .raw(kind::ARRAY, b"a", EMPTY_DOCUMENT)
            .raw(kind::BINARY, b"uuid", b"\x03\0\0\0\x04abc")
            .raw(kind::BINARY, b"old", b"\x06\0\0\0\x02\x02\0\0\0ab")
            .raw(kind::UNDEFINED, b"u", b"")
            .raw(kind::OBJECT_ID, b"o", b"abcdefghijkl")
            .boolean("t", true)
            .raw(kind::DATE, b"date", &(-5i64).to_le_bytes())
            .raw(kind::NULL, b"n", b"")
            .raw(kind::REGEX, b"re", b"^a\\.b\0ix\0")
            .raw(kind::DB_POINTER, b"p", b"\x03\0\0\0db\0abcdefghijkl")
            .raw(kind::CODE, b"c", b"\x02\0\0\0x\0")
            .raw(kind::SYMBOL, b"y", b"\x02\0\0\0x\0")
            .raw(kind::CODE_WITH_SCOPE, b"w", b"\x0f\0\0\0\x02\0\0\0x\0\x05\0\0\0\0")
            .int32("i", -1)
            .raw(kind::TIMESTAMP, b"ts", b"\x02\0\0\0\x01\0\0\0")
            .int64("l", i64::MIN)
            .raw(kind::DECIMAL128, b"dec", &"1.20E+5".parse::<Decimal128>().unwrap().bytes())
            .raw(kind::MIN_KEY, b"min", b"")
            .raw(kind::MAX_KEY, b"max", b"")
            .int32("twice", 1)
            .int32("twice", 2);
        let doc = b.finish();
        let json = document_to_json(&doc).unwrap();
        assert_eq!(back(&json).unwrap(), doc, "{json}");
    }

    #[test]
    fn doubles_look_like_gos() {
        for (d, s) in
            [(1.0, "1.0"), (-0.0, "-0.0"), (1e21, "1E+21"), (1.5e-7, "1.5E-07"), (f64::NAN, "NaN"), (123.25, "123.25")]
        {
            assert_eq!(double(d), s);
        }
    }

    /// Found by the fuzzer: "-NaN" became a NaN of other bits, which is written as "NaN".
    #[test]
    fn there_is_one_nan() {
        let nan = |s: &str| back(&format!(r#"{{"d":{{"$numberDouble":"{s}"}}}}"#)).unwrap();
        assert_eq!(nan("-NaN"), nan("NaN"));
        assert_ne!(nan("-Infinity"), nan("Infinity"));
    }

    #[test]
    fn query_operators_stay_documents_and_plain_numbers_are_taken() {
        let doc =
            back(r#"{"v":2,"big":5000000000,"f":1.5,"r":{"$regex":"^a","$options":"i"},"d":{"$date":"x"}}"#).unwrap();
        let kinds: Vec<_> = Elements::of(&doc).unwrap().map(|e| e.unwrap().kind).collect();
        assert_eq!(kinds, [kind::INT32, kind::INT64, kind::DOUBLE, kind::DOCUMENT, kind::DOCUMENT]);
        assert!(back(r#"{"v":{"$numberInt":"x"}}"#).is_err());
        assert!(back(r#"{"v":"#).is_err());
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(s in ".*") {
            if let Ok(Json::Object(members)) = serde_json::from_str(&s) {
                let _ = document(&members);
            }
        }

        #[test]
        fn finite_doubles_come_back(bits: u64) {
            let d = f64::from_bits(bits);
            if d.is_finite() {
                prop_assert_eq!(double(d).parse::<f64>().unwrap().to_bits(), bits);
            }
        }
    }
}
