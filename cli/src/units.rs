//! Quantities as people type them.

/// Bytes as `50MiB`, `2G` or `1048576`; none if it is something else, or 0.
pub(crate) fn bytes(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match text.get(digits.len()..) {
        Some("" | "B") => 0,
        Some("K" | "KiB") => 10,
        Some("M" | "MiB") => 20,
        Some("G" | "GiB") => 30,
        Some("T" | "TiB") => 40,
        _ => return None,
    };
    let number: u64 = digits.parse().ok()?;
    let bytes = number.checked_mul(1 << shift);
    bytes.filter(|bytes| *bytes > 0)
}

#[cfg(test)]
mod tests {
    use super::bytes;

    #[test]
    fn bytes_are_read_with_their_unit_and_nonsense_is_not() {
        assert_eq!(bytes("1048576"), Some(1 << 20));
        assert_eq!(bytes("50MiB"), Some(50 << 20));
        assert_eq!(bytes("2G"), Some(2 << 30));
        assert_eq!(bytes("7B"), Some(7));
        for wrong in ["", "0", "MiB", "-1", "5X", "99999999999TiB", "1.5G"] {
            assert_eq!(bytes(wrong), None, "{wrong:?}");
        }
    }
}
