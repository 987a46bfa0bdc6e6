//! Merging of configurations: JSON Merge Patch (RFC 7386), and lists whose name starts with `append` are concatenated.
use serde_json::{Map, Value};

/// Puts `over` on top of `base`.
pub fn patch(base: &mut Value, over: &Value) {
    let Value::Object(fields) = over else {
        *base = over.clone();
        return;
    };
    if !base.is_object() {
        *base = Value::Object(Map::new());
    }
    let Value::Object(merged) = base else { return };
    for (key, value) in fields {
        match (merged.get_mut(key), value) {
            (_, Value::Null) => {
                merged.remove(key);
            }
            (Some(Value::Array(items)), Value::Array(more)) if key.starts_with("append") => {
                items.extend(more.iter().cloned())
            }
            (Some(field), value) => patch(field, value),
            (None, value) => {
                let mut field = Value::Null;
                patch(&mut field, value);
                merged.insert(key.clone(), field);
            }
        }
    }
}

/// The result of all configurations, the weakest first; `None` when there are none.
pub fn fold<'a>(confs: impl IntoIterator<Item = &'a Value>) -> Option<Value> {
    confs.into_iter().fold(None, |merged, conf| {
        let mut merged = merged.unwrap_or(Value::Null);
        patch(&mut merged, conf);
        Some(merged)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn objects_merge_and_all_else_is_replaced() {
        let merged = fold([
            &json!({"http": {"a": "1s", "b": "2s"}, "list": [1, 2], "appendList": [1]}),
            &json!({"http": {"b": "3s"}, "list": [3], "appendList": [2]}),
        ]);
        assert_eq!(merged, Some(json!({"http": {"a": "1s", "b": "3s"}, "list": [3], "appendList": [1, 2]})));
        assert_eq!(fold([]), None);
    }

    /// Configurations as documents have them: no nulls, no appended lists.
    fn conf() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            any::<bool>().prop_map(Value::from),
            (0u8..4).prop_map(Value::from),
            proptest::collection::vec((0u8..4).prop_map(Value::from), 0..3).prop_map(Value::from),
        ];
        let object = leaf.prop_recursive(3, 12, 3, |inner| {
            proptest::collection::btree_map("[a-c]", inner, 0..3).prop_map(|map| json!(map))
        });
        proptest::collection::btree_map("[a-c]", object, 0..3).prop_map(|map| json!(map))
    }

    proptest! {
        #[test]
        fn merging_again_changes_nothing(base in conf(), over in conf()) {
            let mut once = base;
            patch(&mut once, &over);
            let mut twice = once.clone();
            patch(&mut twice, &over);
            prop_assert_eq!(once, twice);
        }

        #[test]
        fn what_is_said_last_holds(base in conf(), over in conf()) {
            let mut merged = base;
            patch(&mut merged, &over);
            fn holds(merged: &Value, over: &Value) -> bool {
                match over {
                    Value::Object(fields) => fields.iter().all(|(key, value)| merged.get(key).is_some_and(|own| holds(own, value))),
                    other => merged == other,
                }
            }
            prop_assert!(holds(&merged, &over));
        }
    }
}
