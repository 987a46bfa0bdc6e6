//! The name that a zone's resource has at global: what the zone calls it, and a hash of who it is.
//!
//! The form is Kuma's: `<display name, at most 236 characters>-<hash>`, the hash being FNV-1a (64 bits) over mesh,
//! display name, zone and namespace, printed in 16 characters that make no words.
use shared_model::{Resource, labels};

pub const NAME_KEPT: usize = 236;
const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// The name at global of a resource whose labels already tell its zone.
pub fn hashed(resource: &Resource) -> String {
    let display = resource.display_name();
    let label = |key: &str| resource.labels.get(key).map_or("", String::as_str);
    let parts = [resource.mesh.as_str(), display, label(labels::ZONE), label(labels::NAMESPACE)];
    let hash = parts.iter().flat_map(|part| part.bytes()).fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let digits = format!("{hash:016x}");
    let suffix: String =
        digits.bytes().map(|digit| char::from(ALPHABET[usize::from(digit) % ALPHABET.len()])).collect();
    let kept: String = display.chars().take(NAME_KEPT).collect();
    format!("{kept}-{suffix}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_are_those_of_kuma() {
        for (name, zone, wanted) in [
            ("default-timeout-global", None, "default-timeout-global-54dbd4c66zwbcf9c"),
            ("redis-zone-1", Some("zone-1"), "redis-zone-1-2v6wfvvcvbc9f55d"),
            ("redis-zone-2", Some("zone-2"), "redis-zone-2-ff29vc4685c6f594"),
        ] {
            let mut resource = Resource::new("MeshService", "default", name, serde_json::json!({}));
            if let Some(zone) = zone {
                resource = resource.with_label(labels::ZONE, zone);
            }
            assert_eq!(hashed(&resource), wanted);
        }
    }
}
