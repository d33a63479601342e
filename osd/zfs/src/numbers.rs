//! Numbers and times as `zfs` and `zpool` print them.

/// A number with or without a unit: `0`, `1.06K`, `504M`, `0B`. Units are powers of 1024; what has one
/// was rounded by the program to three digits.
pub(crate) fn rounded(text: &str) -> Option<u64> {
    if let Ok(exact) = text.parse() {
        return Some(exact);
    }
    let text = text.strip_suffix('B').unwrap_or(text);
    let (digits, power) = match text.char_indices().last()? {
        (at, unit) if unit.is_ascii_alphabetic() => (
            text.get(..at)?,
            "KMGTPE".find(unit.to_ascii_uppercase())? + 1,
        ),
        _ => (text, 0),
    };
    let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
    // 6 digits: programs print 2.
    if part.len() > 6
        || ![whole, part]
            .iter()
            .all(|part| part.bytes().all(|b| b.is_ascii_digit()))
    {
        return None;
    }
    let scale = 10_u128.pow(u32::try_from(part.len()).ok()?);
    let digits: u128 = format!("{whole}{part}").parse().ok()?;
    let unit = 1_u128 << (10 * power);
    u64::try_from(digits.checked_mul(unit)? / scale).ok()
}

/// Hundredths of a percent in `16.20%`.
pub(crate) fn hundredths(text: &str) -> Option<u32> {
    let (whole, part) = text.strip_suffix('%')?.split_once('.')?;
    let whole: u32 = whole.parse().ok()?;
    let part: u32 = match part.len() {
        1 => part.parse::<u32>().ok()? * 10,
        2 => part.parse().ok()?,
        _ => return None,
    };
    whole.checked_mul(100)?.checked_add(part)
}

/// Seconds since 1970 of a time like `Sun Nov 29 23:08:11 2026`, as UTC.
pub(crate) fn ctime_s(text: &str) -> Option<u64> {
    const MONTHS: &str = "JanFebMarAprMayJunJulAugSepOctNovDec";
    let mut words = text.split_whitespace().skip(1);
    let month = words.next().filter(|month| month.len() == 3)?;
    let month = MONTHS.find(month).filter(|at| at % 3 == 0)? / 3 + 1;
    let day: u64 = words.next()?.parse().ok()?;
    let mut clock = words.next()?.split(':').map(str::parse::<u64>);
    let mut next = || clock.next()?.ok();
    let (hour, minute, second) = (next()?, next()?, next()?);
    let year: u64 = words.next()?.parse().ok()?;
    let is_possible = (1970..10_000).contains(&year)
        && (1..=31).contains(&day)
        && hour < 24
        && minute < 60
        && second <= 60;
    is_possible.then(|| {
        let days = days_since_1970(year, month as u64, day);
        ((days * 24 + hour) * 60 + minute) * 60 + second
    })
}

/// Days from 1 January 1970 to a date of the Gregorian calendar.
///
/// # Source
///
/// Howard Hinnant, *chrono-Compatible Low-Level Date Algorithms*, `days_from_civil`.
fn days_since_1970(year: u64, month: u64, day: u64) -> u64 {
    // Years begin in March, so that the day that may be missing is the last one.
    let year = if month <= 2 { year - 1 } else { year };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = year * 365 + year / 4 - year / 100 + year / 400 + day_of_year;
    // 719,468: from 1 March of the year 0 to 1 January 1970.
    days - 719_468
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_have_units_of_powers_of_1024() {
        for (text, number) in [
            ("0", 0),
            ("0B", 0),
            ("18446744073709551615", u64::MAX),
            ("1K", 1024),
            ("1.5K", 1536),
            ("1.06k", 1085),
            ("504M", 504 << 20),
            ("2.34T", (234 << 40) / 100),
            ("512B", 512),
        ] {
            assert_eq!(rounded(text), Some(number), "{text}");
        }
        for text in [
            "",
            "-",
            "K",
            "1.2.3K",
            "-1K",
            "1X",
            "999999999E",
            "1 K",
            "none",
        ] {
            assert_eq!(rounded(text), None, "{text}");
        }
    }

    #[test]
    fn percents_are_read_to_the_hundredth() {
        assert_eq!(hundredths("16.20%"), Some(1620));
        assert_eq!(hundredths("100.0%"), Some(10_000));
        assert_eq!(hundredths("16%"), None);
        assert_eq!(hundredths("16.20"), None);
    }

    #[test]
    fn times_are_seconds_since_1970() {
        for (text, seconds) in [
            ("Thu Jan  1 00:00:00 1970", 0),
            ("Tue Feb 29 12:00:00 2000", 951_825_600),
            ("Sun Nov 29 23:08:11 2026", 1_795_993_691),
        ] {
            assert_eq!(ctime_s(text), Some(seconds), "{text}");
        }
        for text in [
            "",
            "Sun Nov 29 23:08:11",
            "Sun anF 29 23:08:11 2026",
            "a b c d e",
            "Sun Nov 99 23:08:11 2026",
        ] {
            assert_eq!(ctime_s(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn prop_noise_is_no_panic(text in "\\PC{0,30}") {
            let _ = (rounded(&text), hundredths(&text), ctime_s(&text));
        }
    }
}
