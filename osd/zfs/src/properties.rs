//! Tables of properties, as `zfs get -Hp` and `zpool get` print them.

use crate::error::Error;

/// One property of one dataset or snapshot.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Row<'a> {
    pub(crate) name: &'a str,
    pub(crate) property: &'a str,
    pub(crate) value: &'a str,
    /// `local`, `inherited from …`, `default`, `-` and so on.
    pub(crate) source: &'a str,
}

/// Reads rows of name, property, value and source with tabs between; others are left out.
pub(crate) fn rows(text: &str) -> impl Iterator<Item = Row<'_>> {
    text.lines().filter_map(|line| {
        let mut fields = line.split('\t');
        let row = Row {
            name: fields.next()?,
            property: fields.next()?,
            value: fields.next()?,
            source: fields.next()?,
        };
        fields.next().is_none().then_some(row)
    })
}

/// Values of one dataset's properties.
#[derive(Debug)]
pub(crate) struct Values<'a> {
    rows: Vec<Row<'a>>,
    command: &'static str,
}

impl<'a> Values<'a> {
    /// Reads the rows that are about one name.
    pub(crate) fn of(text: &'a str, name: &str, command: &'static str) -> Self {
        Self {
            rows: rows(text).filter(|row| row.name == name).collect(),
            command,
        }
    }

    /// A property's value and source; none if it has none.
    pub(crate) fn row(&self, property: &str) -> Option<Row<'a>> {
        let row = self.rows.iter().find(|row| row.property == property)?;
        (row.value != "-").then_some(*row)
    }

    pub(crate) fn text(&self, property: &str) -> Option<&'a str> {
        self.row(property).map(|row| row.value)
    }

    /// A number that every version prints.
    pub(crate) fn number(&self, property: &str) -> Result<u64, Error> {
        let number = self.text(property).and_then(|text| text.parse().ok());
        number.ok_or_else(|| Error::Unreadable {
            command: self.command.to_owned(),
            what: "a number is missing",
        })
    }
}

/// Property and value of each line of a table with a head: `NAME PROPERTY VALUE SOURCE`.
pub(crate) fn table(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.lines().skip(1).filter_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        Some((words.next()?, words.next()?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_other_shape_are_left_out() {
        let text = "tank/a\tused\t9\t-\nnoise\ntank/a\tx:y\t-\t-\n\t\t\ntank/a\tb\tc\td\te\n";

        let values = Values::of(text, "tank/a", "zfs get");

        assert_eq!(values.rows.len(), 2);
        assert_eq!(values.number("used").unwrap(), 9);
        assert_eq!(values.text("x:y"), None);
        assert!(values.number("x:y").is_err());
    }
}
