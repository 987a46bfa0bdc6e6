//! The name of a resource, made to be looked up: a session asks for the same names again and again, and those of one
//! type are alike up to their last bytes. So a name carries its hash, and names are ordered by it; the text decides only
//! between names of one hash.
use std::{
    cmp::Ordering,
    fmt,
    hash::{Hash, Hasher},
    ops::Deref,
    sync::Arc,
};
use xxhash_rust::xxh3::xxh3_64;

/// Cheap to clone. The order is total and the same everywhere, and is not that of the alphabet.
#[derive(Clone)]
pub struct Name {
    hash: u64,
    text: Arc<str>,
}

impl Name {
    /// Where a name of this text stands, seen from this one.
    pub(crate) fn place(&self, text: &str, hash: u64) -> Ordering {
        self.hash.cmp(&hash).then_with(|| (*self.text).cmp(text))
    }

    pub(crate) fn hash_of(text: &str) -> u64 {
        xxh3_64(text.as_bytes())
    }
}

impl From<&str> for Name {
    fn from(text: &str) -> Name {
        Name { hash: Name::hash_of(text), text: text.into() }
    }
}

impl Deref for Name {
    type Target = str;

    fn deref(&self) -> &str {
        &self.text
    }
}

impl PartialEq for Name {
    fn eq(&self, other: &Name) -> bool {
        self.hash == other.hash && (Arc::ptr_eq(&self.text, &other.text) || self.text == other.text)
    }
}

impl Eq for Name {}

impl PartialOrd for Name {
    fn partial_cmp(&self, other: &Name) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Name {
    fn cmp(&self, other: &Name) -> Ordering {
        self.hash.cmp(&other.hash).then_with(|| match Arc::ptr_eq(&self.text, &other.text) {
            true => Ordering::Equal,
            false => self.text.cmp(&other.text),
        })
    }
}

impl Hash for Name {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_same_when_their_texts_are() {
        let (one, same, other) = (Name::from("a"), Name::from("a"), Name::from("b"));
        assert_eq!(one, same);
        assert_eq!(one.cmp(&same), Ordering::Equal);
        assert_ne!(one, other);
        assert_eq!(one.cmp(&other), other.cmp(&one).reverse());
        assert_eq!(one.place("b", Name::hash_of("b")), one.cmp(&other));
    }

    #[test]
    fn texts_of_one_hash_are_two_names() {
        let of = |text: &str| Name { hash: 1, text: text.into() };
        assert_ne!(of("a"), of("b"));
        assert_eq!(of("a").cmp(&of("b")), Ordering::Less);
    }
}
