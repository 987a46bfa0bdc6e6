//! The form of every value on disk: `version (1 byte) | crc32 of the rest (4 bytes, big endian) | body`. A flipped bit
//! or a torn write shows when it is read, not as a wrong resource.
const VERSION: u8 = 1;
const HEAD: usize = 5;

pub fn seal(body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEAD + body.len());
    out.push(VERSION);
    out.extend(crc32fast::hash(body).to_be_bytes());
    out.extend(body);
    out
}

pub fn open(record: &[u8]) -> Result<&[u8], String> {
    let (head, body) = record.split_at_checked(HEAD).ok_or("it is too short")?;
    if head[0] != VERSION {
        return Err(format!("it has version {}, this program reads {VERSION}", head[0]));
    }
    if head[1..] != crc32fast::hash(body).to_be_bytes() {
        return Err("its checksum does not match".to_owned());
    }
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flipped_bit_is_seen() {
        let good = seal(b"body");
        assert_eq!(open(&good), Ok(&b"body"[..]));
        for byte in 0..good.len() {
            let mut bad = good.clone();
            bad[byte] ^= 1;
            assert!(open(&bad).is_err(), "byte {byte}");
        }
        assert!(open(&[]).is_err());
    }
}
