//! CRC-64 with the polynomial of David T. Jones, as `crc64.c` of Redis has it: reflected, no initial value, no final
//! inversion.

use crc_fast::{CrcAlgorithm, Digest};

/// Goes on from `crc` (0 at the start) over `data`.
pub(super) fn update(crc: u64, data: &[u8]) -> u64 {
    let mut digest = Digest::new_with_init_state(CrcAlgorithm::Crc64Redis, crc);
    digest.update(data);
    digest.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 0xad93d23594c935a9 with its bits reversed, a bit at a time.
    fn by_the_book(crc: u64, data: &[u8]) -> u64 {
        data.iter().fold(crc, |crc, byte| {
            (0..8).fold(crc ^ u64::from(*byte), |c, _| if c & 1 == 1 { c >> 1 ^ 0x95ac_9329_ac4b_c9b5 } else { c >> 1 })
        })
    }

    #[test]
    fn the_check_value_of_redis() {
        assert_eq!(update(0, b"123456789"), 0xe9c6_d914_c4b8_d9ca);
    }

    #[test]
    fn steps_of_any_size_agree() {
        let data: Vec<u8> = (0..3000u32).map(|i| (i * i / 8) as u8).collect();
        for len in (0..300).chain([500, 999, 1024, 3000]) {
            assert_eq!(update(0, &data[..len]), by_the_book(0, &data[..len]), "{len} bytes");
            let before = by_the_book(0, &data[..len]);
            assert_eq!(update(before, &data[len..]), by_the_book(before, &data[len..]), "from {len} on");
        }
    }
}
