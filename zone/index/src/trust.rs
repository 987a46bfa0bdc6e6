//! Whether the certificates of a MeshTrust can be read. Envoy refuses a bundle of trust as a whole when one of its
//! certificates is bad, so a bad one is left out before it gets there, and named.
use shared_model::Problem;
use shared_model::core::MeshTrust;
use x509_parser::pem::Pem;

/// Takes out the bundles that cannot be read; paths lead into the spec.
pub(crate) fn leave_out_bad(trust: &mut MeshTrust) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut place = 0;
    trust.ca_bundles.retain(|bundle| {
        let problem = check(&bundle.pem.value).err().map(|reason| {
            let reason = format!("{reason}: the bundle is left out");
            Problem::new(format!("caBundles[{place}].pem.value"), reason)
        });
        place += 1;
        let is_good = problem.is_none();
        problems.extend(problem);
        is_good
    });
    problems
}

fn check(pem: &str) -> Result<(), String> {
    let mut count = 0;
    for block in Pem::iter_from_buffer(pem.as_bytes()) {
        let block = block.map_err(|error| format!("is not PEM: {error}"))?;
        if block.label != "CERTIFICATE" {
            return Err(format!("holds a {} beside certificates", block.label));
        }
        count += 1;
        match x509_parser::parse_x509_certificate(&block.contents) {
            Err(error) => return Err(format!("its certificate {count} cannot be read: {error}")),
            Ok((rest, _)) if !rest.is_empty() => {
                return Err(format!("its certificate {count} has {} bytes too many", rest.len()));
            }
            Ok(_) => {}
        }
    }
    match count {
        0 => Err("holds no certificate".to_owned()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = include_str!("../tests/laws/one.pem");

    #[test]
    fn only_certificates_that_can_be_read_are_good() {
        assert_eq!(check(GOOD), Ok(()));
        assert_eq!(check(&format!("# ours\n{GOOD}{}", include_str!("../tests/laws/two.pem"))), Ok(()));
        let cut: String =
            GOOD.lines().filter(|line| !line.starts_with("MIIB")).map(|l| format!("{l}\n")).collect();
        let key = format!("{GOOD}-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n");
        for bad in ["", "text", "-----BEGIN CERTIFICATE-----\n", &cut, &key, &format!("{GOOD}{cut}")] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_bad_bundle_is_left_out_alone() {
        let mut trust = MeshTrust::of("td", "bad");
        trust.ca_bundles.extend(MeshTrust::of("td", GOOD).ca_bundles);
        let problems = leave_out_bad(&mut trust);
        assert_eq!(
            problems.iter().map(|problem| &*problem.path).collect::<Vec<_>>(),
            ["caBundles[0].pem.value"]
        );
        assert_eq!(trust, MeshTrust::of("td", GOOD));
    }
}
