//! What goes to stdout: lines, tables, YAML and JSON.
use crate::exit::Failure;
use comfy_table::{Cell, Color, ColumnConstraint, Table, Width, presets};
use serde::{Serialize, Serializer, ser::SerializeMap};
use serde_json::Value;
use std::{
    fmt,
    io::{self, IsTerminal, Write},
};

pub fn line(text: impl fmt::Display) -> Result<(), Failure> {
    Ok(writeln!(io::stdout().lock(), "{text}")?)
}

/// Text as it is; ends with a newline in any case.
pub fn text(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    if !text.ends_with('\n') {
        out.write_all(b"\n")?;
    }
    Ok(())
}

/// Text without an end of the line.
pub fn part(text: impl fmt::Display) -> Result<(), Failure> {
    Ok(write!(io::stdout().lock(), "{text}")?)
}

/// How wide the columns of a table have been so far; empty before its first page.
#[derive(Default)]
pub struct Printed(Vec<u16>);

/// One page of a table: its columns are at least as wide as those of the pages before, which have printed the header.
pub fn page(header: &[&str], rows: Vec<Vec<Cell>>, printed: &mut Printed) -> Result<(), Failure> {
    let mut page = Table::new();
    page.load_style(presets::NOTHING);
    if printed.0.is_empty() {
        page.set_header(header.iter().copied());
    }
    page.add_rows(rows);
    let wide = page.column_max_content_widths();
    printed.0.resize(header.len(), 0);
    for ((before, now), column) in printed.0.iter_mut().zip(wide).zip(page.column_iter_mut()) {
        *before = now.max(*before);
        column.set_padding((0, 2));
        column.set_constraint(ColumnConstraint::LowerBoundary(Width::Fixed(*before + 2)));
    }
    if is_colourless() {
        page.force_no_tty();
    }
    line(page.trim_fmt())
}

/// Columns set apart by spaces, as other tools of the trade print them.
pub fn table(header: &[&str], rows: Vec<Vec<Cell>>) -> Result<(), Failure> {
    line(render(header, rows))
}

fn render(header: &[&str], rows: Vec<Vec<Cell>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header.iter().copied());
    table.add_rows(rows);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    if is_colourless() {
        table.force_no_tty();
    }
    table.trim_fmt()
}

/// A cell whose colour says good (green) or not (red); the text says it too.
pub fn verdict(text: &str, good: bool) -> Cell {
    Cell::new(text).fg(if good { Color::Green } else { Color::Red })
}

pub fn json(value: &impl Serialize) -> Result<(), Failure> {
    let text =
        serde_json::to_string_pretty(value).map_err(|error| Failure::from(anyhow::Error::from(error)))?;
    line(text)
}

/// YAML with the fields that name a resource first.
pub fn yaml(value: &Value) -> Result<(), Failure> {
    text(&to_yaml(value)?)
}

pub fn to_yaml(value: &Value) -> Result<String, Failure> {
    serde_saphyr::to_string(&Ordered(value)).map_err(|error| Failure::from(anyhow::Error::from(error)))
}

/// Whether colours are wanted: on a terminal, unless `NO_COLOR` says otherwise.
pub fn has_colours() -> bool {
    io::stdout().is_terminal() && !is_colourless()
}

fn is_colourless() -> bool {
    std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
}

/// Serialises a resource in reading order: what it is, then what it says.
pub struct Ordered<'a>(pub &'a Value);

/// The fields that come first, in this order.
const FIRST: &[&str] =
    &["type", "mesh", "name", "creationTime", "modificationTime", "revision", "labels", "kri"];

impl Serialize for Ordered<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::Object(fields) if fields.contains_key("type") => {
                let mut map = serializer.serialize_map(Some(fields.len()))?;
                for key in FIRST.iter().filter(|key| fields.contains_key(**key)) {
                    map.serialize_entry(key, &fields[*key])?;
                }
                for (key, value) in fields.iter().filter(|(key, _)| !FIRST.contains(&key.as_str())) {
                    map.serialize_entry(key, &Ordered(value))?;
                }
                map.end()
            }
            Value::Array(items) => serializer.collect_seq(items.iter().map(Ordered)),
            Value::Object(fields) => {
                serializer.collect_map(fields.iter().map(|(key, value)| (key, Ordered(value))))
            }
            other => other.serialize(serializer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_resource_reads_from_its_name_down() {
        let value =
            json!({"spec": {"to": [{"b": "1", "a": true}]}, "name": "t", "mesh": "m", "type": "MeshTimeout"});
        let yaml = serde_saphyr::to_string(&Ordered(&value)).expect("yaml");
        assert!(yaml.starts_with("type: MeshTimeout\nmesh: m\nname: t\nspec:\n"), "{yaml}");
        let again = shared_model::document::parse(&yaml).expect("parses");
        assert_eq!(again, value);
    }

    #[test]
    fn yaml_keeps_strings_strings() {
        let value = json!({"a": "yes", "b": "12", "c": "1e3", "d": "null", "e": "line\nline\n", "f": "- x", "g": "", "h": "0x1f"});
        let yaml = serde_saphyr::to_string(&Ordered(&value)).expect("yaml");
        assert_eq!(shared_model::document::parse(&yaml).expect("parses"), value, "{yaml}");
    }

    #[test]
    fn the_pages_of_a_table_keep_its_columns() {
        let mut table = Table::new();
        table.load_style(presets::NOTHING).add_rows([vec!["a", "b"]]);
        let column = table.column_mut(0).expect("a column");
        column.set_padding((0, 2));
        column.set_constraint(ColumnConstraint::LowerBoundary(Width::Fixed(7)));
        assert_eq!(table.trim_fmt(), "a       b");
    }

    #[test]
    fn a_table_has_no_trailing_blanks() {
        let rows = vec![vec![Cell::new("a"), Cell::new("long name")], vec![Cell::new("bcd"), Cell::new("x")]];
        assert_eq!(render(&["N", "M"], rows), "N    M\na    long name\nbcd  x");
    }
}
