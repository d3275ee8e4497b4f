//! BSON documents byte by byte (BSON spec 1.1), for what drivers would not write.

/// A document under construction.
#[derive(Debug)]
pub(super) struct Raw(Vec<u8>);

impl Raw {
    pub(super) fn new() -> Self {
        Self(vec![0; 4])
    }

    /// An element: its type, name and value, as they are.
    pub(super) fn put(mut self, kind: u8, name: &str, value: &[u8]) -> Self {
        self.0.push(kind);
        self.0.extend(name.bytes());
        self.0.push(0);
        self.0.extend(value);
        self
    }

    pub(super) fn int32(self, name: &str, value: i32) -> Self {
        self.put(0x10, name, &value.to_le_bytes())
    }

    pub(super) fn string(self, name: &str, value: &[u8]) -> Self {
        self.put(0x02, name, &string(value))
    }

    pub(super) fn document(self, name: &str, value: Raw) -> Self {
        self.put(0x03, name, &value.finish())
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        self.0.push(0);
        let length = (self.0.len() as u32).to_le_bytes();
        self.0[..4].copy_from_slice(&length);
        self.0
    }
}

/// The value of a string, symbol or code element.
pub(super) fn string(text: &[u8]) -> Vec<u8> {
    [&(text.len() as u32 + 1).to_le_bytes(), text, &[0]].concat()
}

/// The value of a binary element.
pub(super) fn binary(subtype: u8, bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u32).to_le_bytes(), &[subtype][..], bytes].concat()
}

/// Documents that a server keeps byte for byte and that careless tools change.
pub(super) fn oddities() -> Vec<Vec<u8>> {
    let f64 = |bits: u64| bits.to_le_bytes();
    let deep = (0..150).fold(Raw::new().int32("end", 1), |inner, _| Raw::new().document("d", inner));
    let code_with_scope = {
        let rest = [string(b"f(x)"), Raw::new().int32("x", 1).finish()].concat();
        [&(rest.len() as u32 + 4).to_le_bytes(), &rest[..]].concat()
    };
    // Binary subtype 2 has a second length inside.
    let old_binary = binary(2, &[&3u32.to_le_bytes()[..], b"old"].concat());
    vec![
        Raw::new().int32("_id", 1).int32("twice", 1).int32("twice", 2).finish(),
        Raw::new()
            .int32("_id", 2)
            .put(0x01, "nan_with_payload", &f64(0x7ff8_0000_dead_beef))
            .put(0x01, "signalling_nan", &f64(0x7ff0_0000_0000_0001))
            .put(0x01, "negative_zero", &f64(0x8000_0000_0000_0000))
            .put(0x01, "infinity", &f64(0x7ff0_0000_0000_0000))
            .put(0x01, "denormal", &f64(1))
            .finish(),
        Raw::new()
            .int32("_id", 3)
            .put(0x0e, "symbol", &string(b"sym"))
            .put(0x06, "undefined", &[])
            .put(0x0c, "pointer", &[string(b"prexorcloud.users"), vec![7; 12]].concat())
            .put(0x0d, "code", &string(b"return 1"))
            .put(0x0f, "code_with_scope", &code_with_scope)
            .finish(),
        Raw::new().int32("_id", 4).put(0x04, "array", &Raw::new().int32("x", 1).int32("7", 2).finish()).finish(),
        Raw::new().int32("_id", 5).string("not_utf8", b"\xff\xfe caf\xe9").string("with_nul", b"a\0b").finish(),
        Raw::new().int32("_id", 6).put(0x0b, "regex", b"^a.*b$\0xmi\0").finish(),
        Raw::new()
            .int32("_id", 7)
            .put(0x13, "decimal", &[0xff; 8].into_iter().chain([0, 0, 0, 0, 0, 0, 0x40, 0x30]).collect::<Vec<u8>>())
            .put(0x13, "decimal_nan", &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x7c])
            .put(0xff, "min", &[])
            .put(0x7f, "max", &[])
            .put(0x11, "timestamp", &[1, 0, 0, 0, 2, 0, 0, 0])
            .document("nested", Raw::new().put(0x11, "zero_timestamp", &[0; 8]))
            .finish(),
        Raw::new()
            .int32("_id", 8)
            .put(0x05, "generic", &binary(0, b"\0\x01\x02"))
            .put(0x05, "old", &old_binary)
            .put(0x05, "old_uuid", &binary(3, &[3; 16]))
            .put(0x05, "uuid", &binary(4, &[4; 16]))
            .put(0x05, "md5", &binary(5, &[5; 16]))
            .put(0x05, "own", &binary(0x80, b"own"))
            .put(0x05, "empty", &binary(0, b""))
            .finish(),
        Raw::new()
            .int32("_id", 9)
            .int32("with.dot", 1)
            .document("nested", Raw::new().int32("$dollar", 1).int32("", 2).int32(" ", 3))
            .finish(),
        Raw::new().int32("_id", 10).document("deep", deep).finish(),
        Raw::new()
            .int32("_id", 11)
            .put(0x12, "small_as_64_bits", &1i64.to_le_bytes())
            .put(0x01, "small_as_double", &1f64.to_le_bytes())
            .put(0x09, "before_1970", &(-1i64).to_le_bytes())
            .put(0x09, "far", &i64::MAX.to_le_bytes())
            .put(0x0a, "null", &[])
            .put(0x08, "true", &[1])
            .finish(),
        Raw::new().int32("_id", 12).string("large", &b"0123456789abcdef".repeat(200_000)).finish(),
        // Keys of every type.
        Raw::new().put(0x12, "_id", &13i64.to_le_bytes()).int32("n", 1).finish(),
        Raw::new().put(0x0a, "_id", &[]).int32("n", 1).finish(),
        Raw::new().document("_id", Raw::new().int32("a", 1).string("b", b"x")).int32("n", 1).finish(),
        Raw::new().put(0x09, "_id", &0i64.to_le_bytes()).finish(),
        Raw::new().put(0x05, "_id", &binary(4, &[9; 16])).finish(),
        Raw::new().put(0x08, "_id", &[0]).finish(),
        Raw::new().put(0xff, "_id", &[]).finish(),
    ]
}
