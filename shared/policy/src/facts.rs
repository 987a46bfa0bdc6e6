//! What a policy may ask about a proxy and about a destination. The index fills these in; nothing here looks anything
//! up.
use shared_model::{core::dataplane::Protocol, kri::Kri, labels, labels::Labels};
use std::collections::BTreeMap;

/// A proxy as the top-level `targetRef` of a policy sees it.
#[derive(Clone, Copy, Debug)]
pub struct ProxyFacts<'a> {
    pub mesh: &'a str,
    pub name: &'a str,
    pub zone: &'a str,
    pub labels: &'a Labels,
    pub inbounds: &'a [InboundFacts],
}

/// A port that a proxy serves.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InboundFacts {
    pub address: String,
    pub port: u16,
    /// The inbound's name, or its number when it has none. A `sectionName` may always be the number too.
    pub section: String,
    pub protocol: Protocol,
    pub tags: BTreeMap<String, String>,
}

impl InboundFacts {
    pub fn is_section(&self, name: &str) -> bool {
        self.section == name || name.parse() == Ok(self.port)
    }
}

/// A port of a service as the `to` of a policy sees it.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// Of the MeshService; the section is the port's name, or its number.
    pub kri: &'a Kri,
    pub port: u16,
    pub labels: &'a Labels,
    /// The value of `kuma.io/service` by which documents of Kuma 2.x name the destination.
    pub service_tag: Option<&'a str>,
}

impl Target<'_> {
    /// The value of a label. What the name of a service says about it counts as labels, whether they are written or not.
    pub fn label(&self, key: &str) -> Option<&str> {
        let given = |text: &'_ str| !text.is_empty();
        self.labels.get(key).map(String::as_str).or_else(|| match key {
            labels::DISPLAY_NAME => Some(self.kri.name.as_str()).filter(|text| given(text)),
            labels::ZONE => Some(self.kri.zone.as_str()).filter(|text| given(text)),
            labels::NAMESPACE => Some(self.kri.namespace.as_str()).filter(|text| given(text)),
            labels::MESH => Some(self.kri.mesh.as_str()).filter(|text| given(text)),
            _ => None,
        })
    }

    pub fn is_section(&self, name: &str) -> bool {
        self.kri.section == name || name.parse() == Ok(self.port)
    }
}
