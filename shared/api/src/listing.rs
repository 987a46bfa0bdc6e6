//! What a list shows: filters and pages.
use crate::error::Refused;
use serde_json::{Value, json};
use shared_model::{Resource, core::Dataplane, kind, strict};
use std::collections::BTreeMap;

const SIZE_DEFAULT: usize = 100;
const SIZE_MAX: usize = 1000;

/// The query of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    size: usize,
    offset: usize,
    /// Kept for the address of the next page.
    pairs: Vec<(String, String)>,
    name: String,
    labels: BTreeMap<String, String>,
    tags: Vec<(String, String)>,
    gateways: Option<bool>,
}

impl Listing {
    pub fn of(pairs: Vec<(String, String)>) -> Result<Listing, Refused> {
        let mut listing = Listing {
            size: SIZE_DEFAULT,
            offset: 0,
            pairs: Vec::new(),
            name: String::new(),
            labels: BTreeMap::new(),
            tags: Vec::new(),
            gateways: None,
        };
        for (key, value) in &pairs {
            match key.as_str() {
                "size" if value.is_empty() => {}
                "size" => {
                    let size = value.parse().ok().filter(|size| (1..=SIZE_MAX).contains(size));
                    let reason = || {
                        Refused::invalid("size", format!("{value:?} is not a number from 1 to {SIZE_MAX}"))
                    };
                    listing.size = size.ok_or_else(reason)?;
                }
                "offset" if value.is_empty() => {}
                "offset" => {
                    let reason = |_| Refused::invalid("offset", format!("{value:?} is not a number"));
                    listing.offset = value.parse().map_err(reason)?;
                }
                "name" => listing.name = value.clone(),
                "tag" => {
                    let (tag, value) = value.split_once(':').unwrap_or((value, ""));
                    listing.tags.push((tag.to_owned(), value.to_owned()));
                }
                "gateway" => match value.as_str() {
                    "" => {}
                    "true" | "builtin" | "delegated" => listing.gateways = Some(true),
                    "false" => listing.gateways = Some(false),
                    other => {
                        let reason = format!("{other:?} is not true, false, builtin or delegated");
                        return Err(Refused::invalid("gateway", reason));
                    }
                },
                other => {
                    if let Some(label) =
                        other.strip_prefix("filter[labels.").and_then(|rest| rest.strip_suffix(']'))
                    {
                        listing.labels.insert(label.to_owned(), value.clone());
                    }
                }
            }
        }
        listing.pairs = pairs.into_iter().filter(|(key, _)| key != "offset").collect();
        Ok(listing)
    }

    pub fn keeps(&self, resource: &Resource) -> bool {
        resource.name.contains(&self.name)
            && self.labels.iter().all(|(label, value)| resource.labels.get(label) == Some(value))
            && (resource.kind != kind::DATAPLANE || self.keeps_dataplane(resource))
    }

    fn keeps_dataplane(&self, resource: &Resource) -> bool {
        // No Dataplane of this version is a gateway.
        if self.gateways == Some(true) {
            return false;
        }
        if self.tags.is_empty() {
            return true;
        }
        let Ok(dataplane) = strict::read::<Dataplane>(&resource.spec, "") else { return false };
        let inbounds = &dataplane.networking.inbound;
        self.tags.iter().all(|(tag, wanted)| {
            let mut values = inbounds.iter().filter_map(|inbound| inbound.tags.get(tag));
            values.any(|value| value.contains(wanted.as_str()))
        })
    }

    /// The page that was asked for, as Kuma's list. `base` is the address of the list without a query.
    pub fn page<T>(&self, base: &str, all: Vec<T>, show: impl FnMut(T) -> Value) -> Value {
        let total = all.len();
        let items: Vec<Value> = all.into_iter().skip(self.offset).take(self.size).map(show).collect();
        let end = self.offset.saturating_add(self.size);
        let next = (end < total).then(|| {
            let pairs = self.pairs.iter().map(|(key, value)| (key.as_str(), value.clone()));
            let pairs = pairs.chain([("offset", end.to_string())]);
            let query: Vec<_> =
                pairs.map(|(key, value)| format!("{}={}", escape(key), escape(&value))).collect();
            format!("{base}?{}", query.join("&"))
        });
        json!({"total": total, "items": items, "next": next})
    }
}

/// Percent-encodes what may not stand in a query.
fn escape(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:/".contains(&byte);
    text.bytes()
        .map(|byte| if plain(byte) { (byte as char).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listing(pairs: &[(&str, &str)]) -> Result<Listing, Refused> {
        Listing::of(pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn pages_follow_each_other_until_the_end() {
        let first = listing(&[("size", "2"), ("filter[labels.a]", "b c")]).expect("a query");
        let page = first.page("http://h/meshes", vec![1, 2, 3], Value::from);
        assert_eq!(page["items"], json!([1, 2]));
        assert_eq!(page["next"], "http://h/meshes?size=2&filter%5Blabels.a%5D=b%20c&offset=2");
        let last = listing(&[("size", "2"), ("offset", "2")]).expect("a query");
        let page = last.page("http://h/meshes", vec![1, 2, 3], Value::from);
        assert_eq!(page, json!({"total": 3, "items": [3], "next": null}));
    }

    #[test]
    fn a_page_of_a_wrong_size_is_refused() {
        for bad in ["0", "1001", "-1", "x"] {
            assert!(listing(&[("size", bad)]).is_err(), "{bad}");
        }
        assert!(listing(&[("offset", "x")]).is_err());
        assert!(listing(&[("gateway", "perhaps")]).is_err());
    }

    #[test]
    fn filters_keep_what_matches() {
        let spec = json!({"networking": {"address": "10.0.0.1", "inbound": [
            {"port": 80, "tags": {"kuma.io/service": "web-shop"}}
        ]}});
        let web = Resource::new(kind::DATAPLANE, "default", "web-1", spec).with_label("team", "shop");
        for (pairs, kept) in [
            (vec![("name", "eb")], true),
            (vec![("name", "db")], false),
            (vec![("tag", "kuma.io/service:web")], true),
            (vec![("tag", "kuma.io/service:db")], false),
            (vec![("tag", "version")], false),
            (vec![("filter[labels.team]", "shop")], true),
            (vec![("filter[labels.team]", "sho")], false),
            (vec![("gateway", "true")], false),
            (vec![("gateway", "false")], true),
        ] {
            assert_eq!(listing(&pairs).expect("a query").keeps(&web), kept, "{pairs:?}");
        }
    }
}
