//! What may be the name of a resource, a mesh, a zone.
use crate::problem::Problem;

/// Longest name of a resource, in characters.
pub const NAME_MAX: usize = 253;

/// Checks the name of a resource: lower-case letters, digits, `-` and `.`, at most 253 characters, each part between
/// dots starting and ending with a letter or a digit.
pub fn check_name(path: &str, name: &str) -> Option<Problem> {
    if name.is_empty() {
        return Some(Problem::new(path, "cannot be empty"));
    }
    if name.len() > NAME_MAX {
        return Some(Problem::new(
            path,
            format!("is {} characters long, {NAME_MAX} are allowed", name.len()),
        ));
    }
    let good = name.split('.').all(|part| is_label(part, |c| c.is_ascii_lowercase() || c.is_ascii_digit()));
    (!good).then(|| {
        Problem::new(
            path,
            format!("{name:?} is not a name: use lower-case letters, digits, '-' and '.', starting and ending with a letter or digit"),
        )
    })
}

/// Checks the name of a mesh or a zone: as a resource's, without dots (a proxy's id is `<mesh>.<name>`), at most 63
/// characters; a mesh may also hold `_`, for documents of Kuma 2.x.
pub fn check_mesh(path: &str, mesh: &str) -> Option<Problem> {
    if mesh.is_empty() {
        return Some(Problem::new(path, "cannot be empty"));
    }
    let good =
        mesh.len() <= 63 && is_label(mesh, |c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    (!good).then(|| {
        Problem::new(
            path,
            format!("{mesh:?} is not a name: use at most 63 lower-case letters, digits and '-'"),
        )
    })
}

fn is_label(part: &str, edge: impl Fn(char) -> bool) -> bool {
    !part.is_empty()
        && part.chars().all(|c| edge(c) || c == '-')
        && part.starts_with(&edge)
        && part.ends_with(&edge)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_dns() {
        for good in ["a", "web-1", "web.default", "1a"] {
            assert_eq!(check_name("name", good), None, "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a..b", "a_b", ".a"] {
            assert!(check_name("name", bad).is_some(), "{bad}");
        }
        assert!(check_mesh("mesh", "a.b").is_some());
        assert!(check_mesh("mesh", "my_mesh").is_none());
    }
}
