//! Tables and JSON of the same rows.

use comfy_table::{Table, presets};
use serde::Serialize;

use crate::outcome::Done;

/// A row that can be printed both ways; its JSON has the fields of the type.
pub(crate) trait Row: Serialize {
    /// Headings of the table.
    const HEADINGS: &'static [&'static str];

    /// Cells of the table, one for each heading.
    fn cells(&self) -> Vec<String>;
}

/// The rows as a table without lines.
pub(crate) fn table<R: Row>(rows: &[R]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(R::HEADINGS.iter().map(|heading| heading.to_uppercase()));
    for row in rows {
        table.add_row(row.cells());
    }
    trimmed(&table)
}

fn trimmed(table: &Table) -> String {
    let lines: Vec<String> = table
        .lines()
        .map(|line| line.trim_end().trim_start().to_owned())
        .collect();
    lines.join("\n")
}

/// Lines under headings that are known only now.
pub(crate) fn grid(headings: &[String], lines: impl Iterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(headings.iter().map(|heading| heading.to_uppercase()));
    for line in lines {
        table.add_row(line);
    }
    trimmed(&table)
}

/// A list of rows.
pub(crate) fn list<R: Row>(rows: &[R]) -> Done {
    Done {
        text: table(rows),
        json: json(rows),
        missing: Vec::new(),
    }
}

/// JSON in one line, with the fields in the order of the type.
pub(crate) fn json<T: Serialize + ?Sized>(value: &T) -> String {
    // Fails only for maps with odd keys, of which there are none.
    serde_json::to_string(value).unwrap_or_default()
}

/// One row, a line for each field.
pub(crate) fn one<R: Row>(row: &R) -> Done {
    let width = R::HEADINGS
        .iter()
        .map(|heading| heading.len())
        .max()
        .unwrap_or(0);
    let lines: Vec<String> = R::HEADINGS
        .iter()
        .zip(row.cells())
        .map(|(heading, cell)| format!("{heading:<width$}  {cell}"))
        .collect();
    Done {
        text: lines.join("\n"),
        json: json(row),
        missing: Vec::new(),
    }
}

/// Bytes for people: three digits and a unit, powers of 1024.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut value = count;
    let mut rest = 0;
    let mut unit = "B";
    for next in UNITS {
        if value < 1024 {
            break;
        }
        rest = value % 1024;
        value /= 1024;
        unit = next;
    }
    if value < 100 {
        format!("{value}.{} {unit}", rest * 10 / 1024)
    } else {
        format!("{value} {unit}")
    }
}

/// Milliseconds for people.
pub(crate) fn millis(count: u64) -> String {
    if count < 1000 {
        format!("{count} ms")
    } else {
        format!("{}.{} s", count / 1000, count % 1000 / 100)
    }
}

/// Numbers with commas.
pub(crate) fn numbers(all: &[u64]) -> String {
    if all.is_empty() {
        return "-".to_owned();
    }
    let all: Vec<String> = all.iter().map(u64::to_string).collect();
    all.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize)]
    struct Fruit {
        name: &'static str,
        weight_g: u32,
    }

    impl Row for Fruit {
        const HEADINGS: &'static [&'static str] = &["name", "weight"];
        fn cells(&self) -> Vec<String> {
            vec![self.name.to_owned(), format!("{} g", self.weight_g)]
        }
    }

    const FRUIT: [Fruit; 2] = [
        Fruit {
            name: "fig",
            weight_g: 50,
        },
        Fruit {
            name: "pomegranate",
            weight_g: 200,
        },
    ];

    #[test]
    fn table_has_aligned_columns_and_json_the_fields() {
        let done = list(&FRUIT);

        let lines: Vec<&str> = done.text.lines().collect();
        assert_eq!(lines.len(), 3);
        assert!(lines[0].starts_with("NAME"));
        let column = lines[0].find("WEIGHT").unwrap();
        assert_eq!(lines[1].find("50 g"), Some(column));
        assert_eq!(lines[2].find("200 g"), Some(column));
        let fields = r#"[{"name":"fig","weight_g":50},{"name":"pomegranate","weight_g":200}]"#;
        assert_eq!(done.json, fields);
    }

    #[test]
    fn one_row_is_a_line_for_each_field() {
        assert_eq!(one(&FRUIT[0]).text, "name    fig\nweight  50 g");
    }

    #[test]
    fn quantities_are_short() {
        let shown = [0, 1023, 1024, 1536, 200 << 20, u64::MAX].map(bytes);
        assert_eq!(
            shown,
            ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "200 MiB", "15.9 EiB"]
        );
        assert_eq!([999, 1500].map(millis), ["999 ms", "1.5 s"]);
        assert_eq!(numbers(&[1, 2]), "1,2");
        assert_eq!(numbers(&[]), "-");
    }
}
