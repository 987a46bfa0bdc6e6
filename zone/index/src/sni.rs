//! The server name by which a proxy asks for a destination.

/// The name of a port of a MeshService: `a<hash>.<name>.<port>.<mesh>.ms`, as Kuma's zone proxies read it. The hash is
/// the 64-bit FNV-1a of `<name>;<mesh>;`. A name too long for a label of DNS is cut; the hash still tells it apart.
pub fn sni(name: &str, port: u16, mesh: &str) -> String {
    const LABEL_MAX: usize = 63;
    let hash = fnv1a(format!("{name};{mesh};").as_bytes());
    match name.get(..LABEL_MAX - 1) {
        Some(cut) if name.len() > LABEL_MAX - 1 => format!("a{hash:016x}.{cut}x.{port}.{mesh}.ms"),
        _ => format!("a{hash:016x}.{name}.{port}.{mesh}.ms"),
    }
}

/// <http://www.isthe.com/chongo/tech/comp/fnv/>, 64 bits, variant 1a.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_kuma_gives() {
        assert_eq!(
            sni("demo-client", 3000, "envoyconfig"),
            "a65abe81bca1750d1.demo-client.3000.envoyconfig.ms"
        );
        assert_eq!(sni("test-server", 80, "envoyconfig"), "a029781856823048e.test-server.80.envoyconfig.ms");
    }

    #[test]
    fn a_long_name_is_cut_to_a_label() {
        let name = sni(&"n".repeat(200), 80, "m");
        assert_eq!(name.split('.').nth(1).map(str::len), Some(63));
    }
}
