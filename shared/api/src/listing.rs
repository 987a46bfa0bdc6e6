//! What a list shows: filters and pages.
use crate::{
    error::Refused,
    proxies::{self, Selection, Wanted},
};
use serde_json::{Value, json};
use shared_model::{Resource, core::Dataplane, kind, strict};

const SIZE_DEFAULT: usize = 100;
const SIZE_MAX: usize = 1000;

/// The query of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    size: usize,
    offset: usize,
    /// Kept for the address of the next page.
    pairs: Vec<(String, String)>,
    selection: Selection,
}

impl Listing {
    pub fn of(pairs: Vec<(String, String)>) -> Result<Listing, Refused> {
        let mut listing =
            Listing { size: SIZE_DEFAULT, offset: 0, pairs: Vec::new(), selection: Selection::default() };
        let selection = &mut listing.selection;
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
                "name" => selection.name = value.clone(),
                "tag" => {
                    let (tag, value) = value.split_once(':').unwrap_or((value, ""));
                    selection.tags.push((tag.to_owned(), value.to_owned()));
                }
                "gateway" => match value.as_str() {
                    "" => {}
                    "true" | "builtin" | "delegated" => selection.gateways = Some(true),
                    "false" => selection.gateways = Some(false),
                    other => {
                        let reason = format!("{other:?} is not true, false, builtin or delegated");
                        return Err(Refused::invalid("gateway", reason));
                    }
                },
                "zone" => selection.zone = value.clone(),
                "status" if value.is_empty() => {}
                "status" => {
                    let wanted = Wanted::ALL.iter().find(|(name, _)| name == value);
                    selection.status = Some(wanted.map(|(_, wanted)| *wanted).ok_or_else(|| {
                        let names: Vec<&str> = Wanted::ALL.iter().map(|(name, _)| *name).collect();
                        Refused::invalid("status", format!("{value:?} is none of {}", names.join(", ")))
                    })?);
                }
                other => {
                    if let Some(label) =
                        other.strip_prefix("filter[labels.").and_then(|rest| rest.strip_suffix(']'))
                    {
                        selection.labels.insert(label.to_owned(), value.clone());
                    }
                }
            }
        }
        listing.pairs = pairs.into_iter().filter(|(key, _)| key != "offset").collect();
        Ok(listing)
    }

    /// What of it a control plane selects itself, in one mesh or in all.
    pub fn of_proxies(mut self, mesh: Option<&str>) -> Listing {
        self.selection.mesh = mesh.map(str::to_owned);
        self
    }

    pub fn selection(&self) -> &Selection {
        &self.selection
    }

    pub fn offset(&self) -> usize {
        self.offset
    }

    pub fn size(&self) -> usize {
        self.size
    }

    /// Whether a resource is asked for, of whatever kind. What only proxies have is asked of proxies.
    pub fn keeps(&self, resource: &Resource) -> bool {
        let Selection { name, labels, zone, .. } = &self.selection;
        resource.name.contains(name)
            && labels.iter().all(|(label, value)| resource.labels.get(label) == Some(value))
            && (zone.is_empty() || resource.kind == kind::ZONE || resource.zone() == Some(zone))
    }

    /// The page that was asked for, as Kuma's list. `base` is the address of the list without a query.
    pub fn page<T>(&self, base: &str, all: Vec<T>, show: impl FnMut(T) -> Value) -> Value {
        let total = all.len();
        self.paged(base, total, all.into_iter().skip(self.offset).take(self.size).map(show).collect())
    }

    /// The page that was asked for, when it has been cut out already.
    pub fn paged(&self, base: &str, total: usize, items: Vec<Value>) -> Value {
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

/// Whether a proxy is asked for, by its documents.
pub fn selects(selection: &Selection, dataplane: &Resource, insight: Option<&Value>) -> bool {
    let Selection { mesh, name, labels, tags, gateways, zone, status } = selection;
    let has_tags = || {
        if tags.is_empty() {
            return true;
        }
        let Ok(read) = strict::read::<Dataplane>(&dataplane.spec, "") else { return false };
        let inbounds = &read.networking.inbound;
        tags.iter().all(|(tag, wanted)| {
            let mut values = inbounds.iter().filter_map(|inbound| inbound.tags.get(tag));
            values.any(|value| value.contains(wanted.as_str()))
        })
    };
    let has_status = || match status {
        None => true,
        Some(Wanted::Is(status)) => proxies::status_of(dataplane, insight) == *status,
        Some(Wanted::Stale) => insight.is_some_and(|insight| insight["stale"] == true),
    };
    // No Dataplane of this version is a gateway.
    *gateways != Some(true)
        && mesh.as_ref().is_none_or(|mesh| *mesh == dataplane.mesh)
        && dataplane.name.contains(name)
        && labels.iter().all(|(label, value)| dataplane.labels.get(label) == Some(value))
        && (zone.is_empty() || dataplane.zone() == Some(zone))
        && has_tags()
        && has_status()
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
        assert!(listing(&[("status", "perhaps")]).is_err());
    }

    #[test]
    fn filters_keep_what_matches() {
        let spec = json!({"networking": {"address": "10.0.0.1", "inbound": [
            {"port": 80, "tags": {"kuma.io/service": "web-shop"}}
        ]}});
        let web = Resource::new(kind::DATAPLANE, "default", "web-1", spec).with_label("team", "shop");
        let web = web.with_label("kuma.io/zone", "east");
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
            (vec![("zone", "east")], true),
            (vec![("zone", "eas")], false),
            (vec![("status", "offline")], true),
            (vec![("status", "online")], false),
            (vec![("status", "stale")], false),
        ] {
            let selection = listing(&pairs).expect("a query").selection;
            assert_eq!(selects(&selection, &web, None), kept, "{pairs:?}");
        }
    }
}
