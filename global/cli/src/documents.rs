//! The documents that a person hands over: from files, directories and stdin, with variables filled in, read and
//! validated, each with the place that it came from.
use anyhow::{Context, anyhow, bail};
use serde_json::Value;
use shared_model::{Problem, Resource, ResourceKey, document};
use std::{
    collections::BTreeMap,
    fmt, fs,
    io::Read,
    path::{Path, PathBuf},
};

/// Where a document begins, for a person to find it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub file: String,
    /// From 1.
    pub line: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// One document: a resource, and what is wrong with it; or nothing but problems when it is not even that.
#[derive(Clone, Debug)]
pub struct Document {
    pub place: Place,
    pub resource: Option<Resource>,
    pub problems: Vec<Problem>,
}

/// A text to read documents from.
#[derive(Clone, Debug)]
pub struct Source {
    pub name: String,
    pub text: String,
}

/// Reads what `-f` names. A directory gives its documents in the order of their names, without those below it.
pub fn sources(paths: &[PathBuf]) -> anyhow::Result<Vec<Source>> {
    let mut sources = Vec::new();
    for path in paths {
        if path.as_os_str() == "-" {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).context("cannot read stdin")?;
            sources.push(Source { name: "stdin".to_owned(), text });
        } else if path.is_dir() {
            let files = files_of(path)?;
            if files.is_empty() {
                bail!("the directory {} holds no .yaml, .yml or .json file", path.display());
            }
            for file in files {
                sources.push(source(&file)?);
            }
        } else {
            sources.push(source(path)?);
        }
    }
    Ok(sources)
}

fn files_of(directory: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let told = || format!("cannot read the directory {}", directory.display());
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).with_context(told)? {
        let path = entry.with_context(told)?.path();
        let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        if path.is_file() && matches!(extension, "yaml" | "yml" | "json") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn source(path: &Path) -> anyhow::Result<Source> {
    let bytes = fs::read(path).map_err(|error| anyhow!("cannot read {}: {error}", path.display()))?;
    let text =
        String::from_utf8(bytes).map_err(|_| anyhow!("cannot read {}: it is not text", path.display()))?;
    Ok(Source { name: path.display().to_string(), text })
}

/// Reads and validates every document of the sources. None hides another.
pub fn read(sources: &[Source]) -> Vec<Document> {
    let mut documents = Vec::new();
    let mut seen: BTreeMap<ResourceKey, Place> = BTreeMap::new();
    for source in sources {
        for found in document::read_all(&source.text) {
            let mut place = Place { file: source.name.clone(), line: first_line(&source.text, found.line) };
            let (resource, mut problems) = match found.content {
                Ok(resource) => {
                    let problems = shared_policy::validate(&resource);
                    (Some(resource), problems)
                }
                Err(mut problems) => {
                    for problem in &mut problems {
                        if let Some((line, reason)) = in_file(&problem.reason, found.line) {
                            (place.line, problem.reason) = (line, reason);
                        }
                    }
                    (None, problems)
                }
            };
            if let Some(resource) = &resource {
                match seen.get(&resource.key()) {
                    Some(first) => problems.push(Problem::new("", format!("stands at {first} already"))),
                    None => {
                        seen.insert(resource.key(), place.clone());
                    }
                }
            }
            documents.push(Document { place, resource, problems });
        }
    }
    documents
}

/// The first line, from `start`, that says something: comments and blank lines before a document are not its beginning.
fn first_line(text: &str, start: usize) -> usize {
    let silent = |line: &&str| line.trim().is_empty() || line.trim_start().starts_with('#');
    start + text.lines().skip(start - 1).take_while(silent).count()
}

/// The line of the file that a parser means when it counts from the beginning of the document.
fn in_file(reason: &str, start: usize) -> Option<(usize, String)> {
    let (what, rest) = reason.split_once(": line ")?;
    let (line, rest) = rest.split_once(" column ")?;
    let (_, reason) = rest.split_once(": ")?;
    Some((start + line.parse::<usize>().ok()? - 1, format!("{what}: {reason}")))
}

/// A document as it goes over the wire: what the server computes is left out.
pub fn to_send(document: &Value) -> Value {
    let mut document = document.clone();
    if let Value::Object(fields) = &mut document {
        for key in ["creationTime", "modificationTime", "revision", "kri"] {
            fields.remove(key);
        }
    }
    document
}

/// Fills in `{{ key }}`. A key without a value is an error that names it.
pub fn fill_in(source: &mut Source, values: &BTreeMap<String, String>) -> anyhow::Result<()> {
    let mut out = String::with_capacity(source.text.len());
    let mut rest = source.text.as_str();
    while let Some((before, after)) = rest.split_once("{{") {
        let (key, after) = after.split_once("}}").unwrap_or((after, ""));
        let key = key.trim();
        let Some(value) = values.get(key) else {
            let line = 1 + out.matches('\n').count() + before.matches('\n').count();
            bail!("{}:{line}: {{{{ {key} }}}} has no value: give -v {key}=VALUE", source.name);
        };
        out.push_str(before);
        out.push_str(value);
        rest = after;
    }
    out.push_str(rest);
    source.text = out;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Source {
        Source { name: "f.yaml".into(), text: text.into() }
    }

    #[test]
    fn every_document_is_placed_at_its_first_line_that_says_something() {
        let read = read(&[text(
            "# head\n\ntype: Mesh\nname: a\n---\n\n# two\ntype: Mesh\nname: B\n---\ntype: Nothing\n",
        )]);
        let seen: Vec<_> = read.iter().map(|d| (d.place.to_string(), d.problems.is_empty())).collect();
        let expected = [("f.yaml:3", true), ("f.yaml:8", false), ("f.yaml:11", false)];
        assert_eq!(seen, expected.map(|(place, good)| (place.to_owned(), good)));
    }

    #[test]
    fn what_cannot_be_parsed_is_placed_at_its_line() {
        let read = read(&[text("type: Mesh\nname: a\n---\ntype: Mesh\nname: b\nmtls: [\n")]);
        assert_eq!(read[1].place.line, 6);
        assert!(read[1].problems[0].reason.starts_with("not YAML: unclosed"), "{:?}", read[1].problems);
    }

    #[test]
    fn a_resource_that_stands_twice_is_told() {
        let read = read(&[text("type: Mesh\nname: a\n---\ntype: Mesh\nname: a\n")]);
        assert!(read[0].problems.is_empty());
        assert_eq!(read[1].problems, [Problem::new("", "stands at f.yaml:1 already")]);
    }

    #[test]
    fn a_directory_gives_its_documents_in_order() {
        let directory = tempfile::tempdir().expect("a directory");
        for (name, content) in [("b.yml", "b"), ("a.yaml", "a"), ("notes.txt", "x"), ("c.json", "c")] {
            fs::write(directory.path().join(name), content).expect("written");
        }
        let texts: Vec<String> = sources(&[directory.path().into()])
            .expect("read")
            .into_iter()
            .map(|source| source.text)
            .collect();
        assert_eq!(texts, ["a", "b", "c"]);
        let empty = tempfile::tempdir().expect("a directory");
        assert!(
            sources(&[empty.path().into()])
                .expect_err("nothing there")
                .to_string()
                .contains("holds no .yaml")
        );
        let missing = sources(&["/no/such/file.yaml".into()]).expect_err("missing").to_string();
        assert!(missing.starts_with("cannot read /no/such/file.yaml: No such file"), "{missing}");
    }

    #[test]
    fn variables_are_filled_in_or_named() {
        let values = BTreeMap::from([("name".to_owned(), "web-1".to_owned())]);
        let mut source = text("name: {{ name }}\nother: {{name}}\n");
        fill_in(&mut source, &values).expect("filled in");
        assert_eq!(source.text, "name: web-1\nother: web-1\n");
        let error =
            fill_in(&mut text("a: 1\nb: {{ address }}\n"), &values).expect_err("no value").to_string();
        assert_eq!(error, "f.yaml:2: {{ address }} has no value: give -v address=VALUE");
    }
}
