//! The document of a route, as it is written, and its reading into the merged form.
use super::{Filter, Mirror, Redirect, Rewrite, WeightedBackend};
use crate::{BackendRef, kinds::fault_injection::Percentage};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use shared_model::labels::Labels;
use std::collections::BTreeMap;

/// All given parts must hold; with none given every request matches.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct HttpMatch {
    pub path: Option<PathMatch>,
    pub method: Option<Method>,
    pub headers: Vec<HeaderMatch>,
    pub query_params: Vec<QueryMatch>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(tag = "type", content = "value", deny_unknown_fields)]
pub enum PathMatch {
    Exact(String),
    /// Whole segments: `/v1` matches `/v1` and `/v1/a`, not `/v10`.
    PathPrefix(String),
    RegularExpression(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Method {
    Connect,
    Delete,
    Get,
    Head,
    Options,
    Patch,
    Post,
    Put,
    Trace,
}

impl Method {
    pub fn as_str(self) -> &'static str {
        match self {
            Method::Connect => "CONNECT",
            Method::Delete => "DELETE",
            Method::Get => "GET",
            Method::Head => "HEAD",
            Method::Options => "OPTIONS",
            Method::Patch => "PATCH",
            Method::Post => "POST",
            Method::Put => "PUT",
            Method::Trace => "TRACE",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeaderMatch {
    #[serde(default, rename = "type")]
    pub kind: NameMatch,
    /// Lower case, as HTTP/2 sends it.
    pub name: String,
    /// Empty for `Present` and `Absent`.
    #[serde(default)]
    pub value: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum NameMatch {
    #[default]
    Exact,
    Present,
    RegularExpression,
    Absent,
    Prefix,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QueryMatch {
    /// `Exact` or `RegularExpression`.
    #[serde(default, rename = "type")]
    pub kind: NameMatch,
    pub name: String,
    pub value: String,
}

/// Changes of headers, in this order: remove, set (replaces), add (beside what is there).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HeaderModifier {
    pub set: Vec<HeaderValue>,
    pub add: Vec<HeaderValue>,
    pub remove: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeaderValue {
    pub name: String,
    pub value: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scheme {
    Http,
    Https,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", deny_unknown_fields)]
pub enum PathRewrite {
    #[serde(rename = "ReplaceFullPath", rename_all = "camelCase")]
    Full { replace_full_path: String },
    /// Replaces what the path's prefix match has matched.
    #[serde(rename = "ReplacePrefixMatch", rename_all = "camelCase")]
    Prefix { replace_prefix_match: String },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RuleDocument {
    #[serde(default)]
    pub matches: Vec<HttpMatch>,
    pub default: Value,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct DefaultDocument {
    pub filters: Vec<FilterDocument>,
    pub backend_refs: Vec<BackendDocument>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct FilterDocument {
    #[serde(rename = "type")]
    pub kind: FilterKind,
    pub request_header_modifier: Option<HeaderModifier>,
    pub response_header_modifier: Option<HeaderModifier>,
    pub request_redirect: Option<RedirectDocument>,
    pub url_rewrite: Option<RewriteDocument>,
    pub request_mirror: Option<MirrorDocument>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(super) enum FilterKind {
    RequestHeaderModifier,
    ResponseHeaderModifier,
    RequestRedirect,
    #[serde(rename = "URLRewrite")]
    UrlRewrite,
    RequestMirror,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RedirectDocument {
    pub scheme: Option<Scheme>,
    pub hostname: Option<String>,
    pub path: Option<PathRewrite>,
    pub port: Option<u16>,
    pub status_code: Option<u16>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RewriteDocument {
    pub hostname: Option<String>,
    pub path: Option<PathRewrite>,
    #[serde(default)]
    pub host_to_backend_hostname: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct MirrorDocument {
    pub percentage: Option<Percentage>,
    pub backend_ref: BackendDocument,
}

/// A destination with its share. The fields that only 2.x has are read to be refused with a reason.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct BackendDocument {
    pub kind: String,
    #[serde(default)]
    pub name: String,
    #[serde(default)]
    pub namespace: String,
    #[serde(default)]
    pub labels: Labels,
    pub port: Option<u16>,
    pub weight: Option<u32>,
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
    #[serde(default)]
    pub section_name: String,
    #[serde(default)]
    pub mesh: String,
}

impl BackendDocument {
    fn reference(self) -> BackendRef {
        BackendRef { kind: self.kind, name: self.name, port: self.port, labels: self.labels }
    }
}

/// A rule that has been checked, with its matches in one form: a rule without any matches every request.
pub(super) struct Rule {
    pub matches: Vec<HttpMatch>,
    pub default: Value,
}

/// The rules of an item's configuration, which has passed the check.
pub(super) fn rules(conf: &Value) -> Vec<Rule> {
    let documents: Vec<RuleDocument> = serde_json::from_value(conf.clone()).unwrap_or_default();
    let rule = |document: RuleDocument| {
        let mut matches = document.matches;
        if matches.is_empty() {
            matches.push(HttpMatch::default());
        }
        for header in matches.iter_mut().flat_map(|one| &mut one.headers) {
            header.name.make_ascii_lowercase();
        }
        Rule { matches, default: document.default }
    };
    documents.into_iter().map(rule).collect()
}

/// The merged `default` of a rule.
pub(super) fn default(conf: &Value) -> (Vec<Filter>, Vec<WeightedBackend>) {
    let document: DefaultDocument = serde_json::from_value(conf.clone()).unwrap_or_default();
    let filters = document.filters.into_iter().filter_map(filter).collect();
    let backend = |document: BackendDocument| {
        let weight = document.weight.unwrap_or(1);
        WeightedBackend { backend: document.reference(), weight }
    };
    (filters, document.backend_refs.into_iter().map(backend).collect())
}

fn filter(document: FilterDocument) -> Option<Filter> {
    Some(match document.kind {
        FilterKind::RequestHeaderModifier => Filter::RequestHeaders(document.request_header_modifier?),
        FilterKind::ResponseHeaderModifier => Filter::ResponseHeaders(document.response_header_modifier?),
        FilterKind::RequestRedirect => {
            let RedirectDocument { scheme, hostname, path, port, status_code } = document.request_redirect?;
            Filter::Redirect(Redirect { scheme, hostname, path, port, status: status_code.unwrap_or(302) })
        }
        FilterKind::UrlRewrite => {
            let RewriteDocument { hostname, path, host_to_backend_hostname } = document.url_rewrite?;
            Filter::Rewrite(Rewrite { hostname, path, host_to_backend: host_to_backend_hostname })
        }
        FilterKind::RequestMirror => {
            let MirrorDocument { percentage, backend_ref } = document.request_mirror?;
            let percentage = percentage.unwrap_or(Percentage::WHOLE);
            Filter::Mirror(Mirror { backend: backend_ref.reference(), percentage })
        }
    })
}

impl HttpMatch {
    /// Greater is tried earlier: an exact path before a prefix before a regular expression before none, longer before
    /// shorter; then with a method before without, and more headers and query parameters before fewer.
    pub(super) fn precedence(&self) -> (u8, usize, bool, usize, usize) {
        let (path, length) = match &self.path {
            Some(PathMatch::Exact(path)) => (3, path.len()),
            // The prefix of everything says no more than no path at all.
            Some(PathMatch::PathPrefix(path)) if path == "/" => (0, 0),
            Some(PathMatch::PathPrefix(path)) => (2, path.len()),
            Some(PathMatch::RegularExpression(path)) => (1, path.len()),
            None => (0, 0),
        };
        (path, length, self.method.is_some(), self.headers.len(), self.query_params.len())
    }
}
