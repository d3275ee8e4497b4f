//! CRC-64 with the polynomial of David T. Jones, as `crc64.c` of Redis has it: reflected, no initial value, no final
//! inversion. Sixteen bytes a step.

const POLYNOMIAL: u64 = 0x95ac_9329_ac4b_c9b5; // 0xad93d23594c935a9 with its bits reversed
const STEP: usize = 16;

static TABLES: [[u64; 256]; STEP] = tables();

const fn tables() -> [[u64; 256]; STEP] {
    let mut t = [[0; 256]; STEP];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u64;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ POLYNOMIAL } else { crc >> 1 };
            bit += 1;
        }
        t[0][byte] = crc;
        byte += 1;
    }
    let mut step = 1;
    while step < STEP {
        let mut byte = 0;
        while byte < 256 {
            let before = t[step - 1][byte];
            t[step][byte] = before >> 8 ^ t[0][(before & 0xff) as usize];
            byte += 1;
        }
        step += 1;
    }
    t
}

/// Goes on from `crc` (0 at the start) over `data`.
pub(super) fn update(mut crc: u64, data: &[u8]) -> u64 {
    let (steps, rest) = data.as_chunks::<STEP>();
    for s in steps {
        let low = u64::from_le_bytes([s[0], s[1], s[2], s[3], s[4], s[5], s[6], s[7]]) ^ crc;
        let high = u64::from_le_bytes([s[8], s[9], s[10], s[11], s[12], s[13], s[14], s[15]]);
        crc = 0;
        let mut i = 0;
        while i < 8 {
            crc ^= TABLES[15 - i][(low >> (8 * i) & 0xff) as usize] ^ TABLES[7 - i][(high >> (8 * i) & 0xff) as usize];
            i += 1;
        }
    }
    for b in rest {
        crc = TABLES[0][(crc as u8 ^ b) as usize] ^ crc >> 8;
    }
    crc
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_check_value_of_redis() {
        assert_eq!(update(0, b"123456789"), 0xe9c6_d914_c4b8_d9ca);
    }

    #[test]
    fn steps_of_any_size_agree() {
        let data: Vec<u8> = (0..1000u32).map(|i| (i * i / 8) as u8).collect();
        let bytewise = data.iter().fold(0, |crc, b| update(crc, &[*b]));
        for cut in [0, 1, 15, 16, 17, 500, 999] {
            assert_eq!(update(update(0, &data[..cut]), &data[cut..]), bytewise);
        }
    }
}
