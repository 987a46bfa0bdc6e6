//! Files of documents: YAML (one or several, separated by `---`) or JSON (one, or a list).
use crate::{problem::Problem, resource::Resource};
use serde_json::Value;

/// The most that one document may weigh, in bytes. Larger input is refused before it is parsed.
pub const DOCUMENT_MAX: usize = 4 << 20;

/// One document of a file: which one it is and what was read, or what is wrong with it.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// Line of the file at which it starts, from 1.
    pub line: usize,
    pub content: Result<Resource, Vec<Problem>>,
}

/// Reads every document of a file. A document that cannot be read does not hide the others.
pub fn read_all(text: &str) -> Vec<Document> {
    let mut documents = Vec::new();
    for (line, part) in split(text) {
        match parse(part) {
            Err(problem) => documents.push(Document { line, content: Err(vec![problem]) }),
            Ok(Value::Null) => {}
            Ok(Value::Array(items)) => {
                documents
                    .extend(items.iter().map(|item| Document { line, content: Resource::from_json(item) }));
            }
            Ok(value) => documents.push(Document { line, content: Resource::from_json(&value) }),
        }
    }
    documents
}

/// Parses one YAML or JSON text. Anchors are bounded, duplicate keys refused.
pub fn parse(text: &str) -> Result<Value, Problem> {
    if text.len() > DOCUMENT_MAX {
        return Err(Problem::new("", format!("is {} bytes long, {DOCUMENT_MAX} are allowed", text.len())));
    }
    let trimmed = text.trim_start_matches('\u{feff}');
    let body = trimmed.trim_start();
    if (body.starts_with('{') || body.starts_with('['))
        && let Ok(value) = serde_json::from_str(trimmed)
    {
        return Ok(value);
    }
    if trimmed.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
        return Ok(Value::Null);
    }
    serde_saphyr::from_str(trimmed).map_err(|error| {
        let text = error.to_string();
        let first = text.lines().find(|line| !line.trim().is_empty()).unwrap_or("cannot be parsed");
        Problem::new("", format!("not YAML: {}", first.trim().trim_start_matches("error: ")))
    })
}

/// The parts between `---` lines, each with the number of its first line.
fn split(text: &str) -> Vec<(usize, &str)> {
    let mut parts = Vec::new();
    let (mut start, mut start_line, mut offset) = (0, 1, 0);
    for (number, line) in text.split_inclusive('\n').enumerate() {
        if line.trim_end() == "---" {
            parts.push((start_line, &text[start..offset]));
            start = offset + line.len();
            start_line = number + 2;
        }
        offset += line.len();
    }
    parts.push((start_line, &text[start..]));
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_document_does_not_hide_the_others() {
        let text = "type: Mesh\nname: a\n---\n{{{\n---\n# nothing\n---\ntype: Mesh\nname: b\n";
        let documents = read_all(text);
        let seen: Vec<_> = documents.iter().map(|d| (d.line, d.content.is_ok())).collect();
        assert_eq!(seen, [(1, true), (4, false), (8, true)]);
    }

    #[test]
    fn bombs_and_duplicates_are_refused() {
        let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
        for i in 1..12 {
            let before = i - 1;
            let refs = vec![format!("*a{before}"); 10].join(",");
            bomb += &format!("a{i}: &a{i} [{refs}]\n");
        }
        assert!(parse(&bomb).is_err());
        assert!(parse("a: 1\na: 2\n").is_err());
        assert!(parse(&("[".repeat(100_000))).is_err());
    }

    #[test]
    fn a_json_list_is_several_documents() {
        assert_eq!(read_all(r#"[{"type":"Mesh","name":"a"},{"type":"Mesh","name":"b"}]"#).len(), 2);
    }
}
