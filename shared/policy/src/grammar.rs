//! What documents of a kind may say, and the reading of a spec into items that the engine orders and merges.
//!
//! All that is wrong is reported at once, each with the path that leads to it: an item that cannot be read does not
//! hide the others.
use crate::{
    peer::{Match, SpiffeMatch},
    target_ref::{self, Destination, TargetRef},
};
use serde::Deserialize;
use serde_json::Value;
use shared_model::{Problem, problem::join, strict};

/// What a kind's check may look at beside the configuration itself.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// The top-level `targetRef`.
    pub top: &'a TargetRef,
    /// What an item of `to` is about.
    pub destination: Option<&'a Destination>,
    /// The callers that an item of `from` or `rules` is about; empty: all.
    pub peers: &'a [Match],
}

/// Checks one item's configuration; paths of the problems are relative to it.
pub type Check = fn(&Value, &Context) -> Vec<Problem>;

/// What documents of one kind may say.
pub struct Grammar {
    pub kind: &'static str,
    pub to: Option<To>,
    pub from: Option<From>,
    pub rules: Option<Rules>,
}

pub struct To {
    /// Kinds of destinations.
    pub kinds: &'static [&'static str],
    /// The field that holds an item's configuration: `default`, or `rules` for routes.
    pub field: &'static str,
    pub check: Check,
}

pub struct From {
    pub kinds: &'static [&'static str],
    pub check: Check,
}

pub struct Rules {
    /// Items may name callers in `matches`.
    pub matches: bool,
    pub check: Check,
}

/// A spec in parts.
#[derive(Clone, Debug, PartialEq)]
pub struct Parts {
    pub top: TargetRef,
    pub to: Vec<(Destination, Value)>,
    pub from: Vec<(Match, Value)>,
    pub rules: Vec<(Vec<Match>, Value)>,
}

/// A condition of `rules[].matches`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PeerDocument {
    #[serde(default, rename = "spiffeID")]
    spiffe_id: Option<SpiffeMatch>,
    #[serde(default)]
    sni: Option<SniDocument>,
}

#[derive(Deserialize)]
#[serde(tag = "type", content = "value", deny_unknown_fields)]
enum SniDocument {
    Exact(String),
}

/// Reads a condition on the caller; paths are relative to it.
pub fn read_peer(value: &Value) -> Result<Match, Problem> {
    let document: PeerDocument = strict::read(value, "")?;
    let sni = document.sni.map(|SniDocument::Exact(name)| name);
    if let Some(spiffe) = &document.spiffe_id {
        let (id, exact) = (spiffe.value(), matches!(spiffe, SpiffeMatch::Exact(_)));
        let rest = id.strip_prefix("spiffe://").filter(|rest| !rest.starts_with('/') && id.len() <= 2048);
        let good = rest.is_some_and(|rest| !exact || !rest.is_empty() && !rest.ends_with('/'));
        if !good {
            let reason = format!("{id:?} is not a SPIFFE id: spiffe://<trust domain>/<path>");
            return Err(Problem::new("spiffeID.value", reason));
        }
    }
    if sni.as_ref().is_some_and(|name| name.is_empty() || name.len() > 253) {
        return Err(Problem::new("sni.value", "must be 1 to 253 characters long"));
    }
    if document.spiffe_id.is_none() && sni.is_none() {
        return Err(Problem::new("", "needs a spiffeID or an sni"));
    }
    Ok(Match { spiffe: document.spiffe_id, sni, ..Match::default() })
}

const FIELDS: &[&str] = &["targetRef", "to", "from", "rules"];

impl Grammar {
    /// Reads a spec. Paths of the problems start with `spec`.
    pub fn read(&self, spec: &Value) -> Result<Parts, Vec<Problem>> {
        let Value::Object(fields) = spec else { return Err(vec![Problem::new("spec", "must be a mapping")]) };
        let mut problems = Vec::new();
        for field in fields.keys().filter(|field| !FIELDS.contains(&field.as_str())) {
            let reason = format!("unknown field {field:?}, expected one of {}", self.fields().join(", "));
            problems.push(Problem::new(join("spec", field), reason));
        }
        let top = self.read_top(&spec["targetRef"], &mut problems);
        let context = Context { top: &top, destination: None, peers: &[] };
        let (mut to, mut from, mut rules) = (Vec::new(), Vec::new(), Vec::new());
        for (path, item) in self.items(spec, "to", self.to.is_some(), &mut problems) {
            let Some(grammar) = &self.to else { break };
            if let Some(read) = read_target_item(item, &path, grammar.kinds, grammar.field, &mut problems) {
                let destination = Destination::of(&read.0);
                let context = Context { destination: Some(&destination), ..context };
                problems.extend(checked(grammar.check, &read.1, &context, &path, grammar.field));
                to.push((destination, read.1));
            }
        }
        for (path, item) in self.items(spec, "from", self.from.is_some(), &mut problems) {
            let Some(grammar) = &self.from else { break };
            if let Some(read) = read_target_item(item, &path, grammar.kinds, "default", &mut problems) {
                problems.extend(checked(grammar.check, &read.1, &context, &path, "default"));
                from.push((target_ref::caller(&read.0), read.1));
            }
        }
        for (path, item) in self.items(spec, "rules", self.rules.is_some(), &mut problems) {
            let Some(grammar) = &self.rules else { break };
            if let Some(read) = read_rule(item, &path, grammar.matches, &mut problems) {
                let context = Context { peers: &read.0, ..context };
                problems.extend(checked(grammar.check, &read.1, &context, &path, "default"));
                rules.push(read);
            }
        }
        let given = |field: &str| spec[field].as_array().is_some_and(|items| !items.is_empty());
        if given("rules") && given("from") {
            let reason = "from and rules cannot both be given: rules is the newer form of from";
            problems.push(Problem::new("spec", reason));
        }
        if !FIELDS[1..].iter().any(|field| fields.get(*field).is_some_and(|value| !value.is_null())) {
            problems.push(Problem::new("spec", format!("needs {}", self.fields()[1..].join(" or "))));
        }
        if !top.section_name.is_empty() && given("to") {
            let reason = "selects one inbound, and spec.to is about what the whole proxy sends";
            problems.push(Problem::new("spec.targetRef.sectionName", reason));
        }
        if problems.is_empty() { Ok(Parts { top, to, from, rules }) } else { Err(problems) }
    }

    /// The fields of a spec of this kind, `from` of 2.x last.
    fn fields(&self) -> Vec<&'static str> {
        let some = [
            (true, "targetRef"),
            (self.to.is_some(), "to"),
            (self.rules.is_some(), "rules"),
            (self.from.is_some(), "from"),
        ];
        some.into_iter().filter(|(given, _)| *given).map(|(_, field)| field).collect()
    }

    fn read_top(&self, value: &Value, problems: &mut Vec<Problem>) -> TargetRef {
        if value.is_null() {
            return TargetRef::mesh();
        }
        match strict::read::<TargetRef>(value, "spec.targetRef") {
            Ok(top) => {
                problems.extend(
                    top.check(target_ref::TOP).into_iter().map(|problem| problem.under("spec.targetRef")),
                );
                if top.kind == target_ref::MESH_SERVICE
                    && (!top.labels.is_empty() || !top.section_name.is_empty())
                {
                    let reason = "proxies are selected by labels with kind Dataplane, a MeshService here is a name only";
                    problems.push(Problem::new("spec.targetRef", reason));
                }
                top
            }
            Err(problem) => {
                problems.push(problem);
                TargetRef::mesh()
            }
        }
    }

    /// The items of a list of the spec with their paths. A list that the kind does not have, and an empty one, are
    /// problems.
    fn items<'a>(
        &self,
        spec: &'a Value,
        field: &'static str,
        known: bool,
        problems: &mut Vec<Problem>,
    ) -> impl Iterator<Item = (String, &'a Value)> + use<'a> {
        let path = join("spec", field);
        let items = match &spec[field] {
            Value::Null => &[][..],
            _ if !known => {
                let reason =
                    format!("{} has no {field}: write {}", self.kind, self.fields()[1..].join(" or "));
                problems.push(Problem::new(path.clone(), reason));
                &[][..]
            }
            Value::Array(items) => {
                if items.is_empty() {
                    problems.push(Problem::new(path.clone(), "cannot be empty"));
                }
                items.as_slice()
            }
            _ => {
                problems.push(Problem::new(path.clone(), "must be a list"));
                &[][..]
            }
        };
        items.iter().enumerate().map(move |(i, item)| (format!("{path}[{i}]"), item))
    }
}

/// Reads an item `{targetRef, <field>}`.
fn read_target_item(
    item: &Value,
    path: &str,
    kinds: &[&str],
    field: &str,
    problems: &mut Vec<Problem>,
) -> Option<(TargetRef, Value)> {
    let fields = known_fields(item, path, &["targetRef", field], problems)?;
    let target_path = join(path, "targetRef");
    let target = match fields.get("targetRef").filter(|value| !value.is_null()) {
        None => {
            problems.push(Problem::new(target_path, "is missing"));
            None
        }
        Some(value) => match strict::read::<TargetRef>(value, &target_path) {
            Ok(target) => {
                let found = target.check(kinds);
                let good = found.is_empty();
                problems.extend(found.into_iter().map(|problem| problem.under(&target_path)));
                good.then_some(target)
            }
            Err(problem) => {
                problems.push(problem);
                None
            }
        },
    };
    let conf = configuration(fields.get(field), path, field, problems);
    // A wrong target must not hide what is wrong with the configuration, so it is read as if it were for the mesh.
    Some((target.unwrap_or_else(TargetRef::mesh), conf?))
}

/// Reads an item `{matches, default}`.
fn read_rule(
    item: &Value,
    path: &str,
    matches: bool,
    problems: &mut Vec<Problem>,
) -> Option<(Vec<Match>, Value)> {
    let known: &[&str] = if matches { &["matches", "default"] } else { &["default"] };
    let fields = known_fields(item, path, known, problems)?;
    let mut peers = Vec::new();
    let list = join(path, "matches");
    match fields.get("matches").filter(|value| matches && !value.is_null()) {
        None => {}
        Some(Value::Array(items)) => {
            for (i, item) in items.iter().enumerate() {
                match read_peer(item) {
                    Ok(peer) => peers.push(peer),
                    Err(problem) => problems.push(problem.under(&format!("{list}[{i}]"))),
                }
            }
        }
        Some(_) => problems.push(Problem::new(list, "must be a list")),
    }
    Some((peers, configuration(fields.get("default"), path, "default", problems)?))
}

fn known_fields<'a>(
    item: &'a Value,
    path: &str,
    known: &[&str],
    problems: &mut Vec<Problem>,
) -> Option<&'a serde_json::Map<String, Value>> {
    let Value::Object(fields) = item else {
        problems.push(Problem::new(path, "must be a mapping"));
        return None;
    };
    for field in fields.keys().filter(|field| !known.contains(&field.as_str())) {
        let reason = format!("unknown field {field:?}, expected one of {}", known.join(", "));
        problems.push(Problem::new(join(path, field), reason));
    }
    Some(fields)
}

/// The configuration of an item without its nulls: null in a document means that the field is not given.
fn configuration(
    value: Option<&Value>,
    path: &str,
    field: &str,
    problems: &mut Vec<Problem>,
) -> Option<Value> {
    match value {
        None | Some(Value::Null) => {
            problems.push(Problem::new(join(path, field), "is missing"));
            None
        }
        Some(value) => Some(without_nulls(value)),
    }
}

fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let given = fields.iter().filter(|(_, value)| !value.is_null());
            Value::Object(given.map(|(key, value)| (key.clone(), without_nulls(value))).collect())
        }
        Value::Array(items) => Value::Array(items.iter().map(without_nulls).collect()),
        other => other.clone(),
    }
}

fn checked(
    check: Check,
    conf: &Value,
    context: &Context,
    path: &str,
    field: &str,
) -> impl Iterator<Item = Problem> {
    let path = join(path, field);
    check(conf, context).into_iter().map(move |problem| problem.under(&path))
}

/// Reads a configuration as the kind's type and runs the checks of its values.
pub fn typed<T: serde::de::DeserializeOwned>(
    conf: &Value,
    check: impl Fn(&T) -> Vec<Problem>,
) -> Vec<Problem> {
    match strict::read::<T>(conf, "") {
        Ok(conf) => check(&conf),
        Err(problem) => vec![problem],
    }
}
