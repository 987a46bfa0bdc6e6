//! Records on disk: a version byte, a checksum, the value in bincode.
//!
//! The checksum covers the key too, so that a record found under another key is damage. sled has checksums of its own;
//! these hold for whatever store is below, and for what sled returns after a recovery.
use serde::{Serialize, de::DeserializeOwned};

const VERSION: u8 = 1;
const HEAD: usize = 5;

/// No record is near it; a length in a damaged one may be.
const SIZE_MAX: usize = 256 << 20;

pub fn encode<T: Serialize>(key: &[u8], value: &T) -> Vec<u8> {
    let mut record = vec![VERSION, 0, 0, 0, 0];
    bincode::serde::encode_into_std_write(value, &mut record, bincode::config::standard())
        .expect("a vector takes all that is written to it");
    let sum = checksum(key, &record[HEAD..]);
    record[1..HEAD].copy_from_slice(&sum.to_le_bytes());
    record
}

pub fn decode<T: DeserializeOwned>(key: &[u8], record: &[u8]) -> Result<T, String> {
    let Some((head, body)) = record.split_at_checked(HEAD) else {
        return Err(format!("a record of {} bytes is cut off", record.len()));
    };
    if head[0] != VERSION {
        return Err(format!("a record has form {}, this version reads {VERSION}", head[0]));
    }
    if checksum(key, body).to_le_bytes() != head[1..] {
        return Err("a checksum does not match".to_owned());
    }
    let config = bincode::config::standard().with_limit::<SIZE_MAX>();
    match bincode::serde::decode_from_slice(body, config) {
        Ok((value, read)) if read == body.len() => Ok(value),
        Ok((_, read)) => Err(format!("{} bytes follow a record", body.len() - read)),
        Err(error) => Err(error.to_string()),
    }
}

fn checksum(key: &[u8], body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(key);
    hasher.update(body);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_flipped_bit_is_found() {
        let record = encode(b"key", &("value".to_owned(), 7u64));
        assert_eq!(decode::<(String, u64)>(b"key", &record), Ok(("value".to_owned(), 7)));
        assert!(decode::<(String, u64)>(b"kez", &record).is_err());
        for bit in 0..record.len() * 8 {
            let mut damaged = record.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(decode::<(String, u64)>(b"key", &damaged).is_err(), "bit {bit}");
        }
        for length in 0..record.len() {
            assert!(decode::<(String, u64)>(b"key", &record[..length]).is_err(), "length {length}");
        }
    }
}
