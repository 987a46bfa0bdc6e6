//! Durations as the documents write them: Go's syntax, `500ms`, `1h30m`, `0s`.
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use std::fmt;

/// A span of time that prints and parses in Go's syntax. Never negative.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Duration(pub std::time::Duration);

impl Duration {
    pub const ZERO: Duration = Duration(std::time::Duration::ZERO);

    pub const fn from_secs(secs: u64) -> Self {
        Duration(std::time::Duration::from_secs(secs))
    }

    pub const fn from_millis(millis: u64) -> Self {
        Duration(std::time::Duration::from_millis(millis))
    }

    /// Parses Go's duration syntax: a sequence of decimal numbers with a unit each (`ns`, `us`, `ms`, `s`, `m`, `h`).
    pub fn parse(text: &str) -> Result<Self, String> {
        let bad = || format!("{text:?} is not a duration: write for example \"500ms\", \"5s\" or \"1h30m\"");
        if text == "0" {
            return Ok(Self::ZERO);
        }
        if text.starts_with('-') {
            return Err(format!("{text:?} is negative: a duration cannot be"));
        }
        let mut rest = text.strip_prefix('+').unwrap_or(text);
        if rest.is_empty() {
            return Err(bad());
        }
        let mut nanos: u128 = 0;
        while !rest.is_empty() {
            let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(bad)?;
            let (number, tail) = rest.split_at(end);
            let unit_end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
            let (unit, tail) = tail.split_at(unit_end);
            let scale: u128 = match unit {
                "ns" => 1,
                "us" | "µs" | "μs" => 1_000,
                "ms" => 1_000_000,
                "s" => 1_000_000_000,
                "m" => 60_000_000_000,
                "h" => 3_600_000_000_000,
                _ => return Err(bad()),
            };
            let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
            if whole.is_empty() && fraction.is_empty() || whole.len() > 18 || fraction.len() > 18 {
                return Err(bad());
            }
            let whole: u128 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| bad())? };
            let digits = u32::try_from(fraction.len()).map_err(|_| bad())?;
            let part: u128 = if fraction.is_empty() { 0 } else { fraction.parse().map_err(|_| bad())? };
            nanos = nanos
                .saturating_add(whole.saturating_mul(scale))
                .saturating_add(part * scale / 10u128.pow(digits));
            rest = tail;
        }
        let nanos = u64::try_from(nanos).ok().filter(|n| *n <= i64::MAX as u64);
        nanos
            .map(|n| Duration(std::time::Duration::from_nanos(n)))
            .ok_or_else(|| format!("{text:?} is too long"))
    }
}

impl fmt::Display for Duration {
    /// Prints as Go does: `1h0m0s`, `1m41s`, `1.5s`, `500ms`, `0s`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.0.as_nanos();
        let fraction = |f: &mut fmt::Formatter<'_>, value: u128, scale: u128, unit: &str| {
            let (whole, part) = (value / scale, value % scale);
            if part == 0 {
                return write!(f, "{whole}{unit}");
            }
            let digits = scale.ilog10() as usize;
            let part = format!("{part:0digits$}");
            write!(f, "{whole}.{}{unit}", part.trim_end_matches('0'))
        };
        match nanos {
            0 => f.write_str("0s"),
            n if n < 1_000 => write!(f, "{n}ns"),
            n if n < 1_000_000 => fraction(f, n, 1_000, "µs"),
            n if n < 1_000_000_000 => fraction(f, n, 1_000_000, "ms"),
            n => {
                let minutes = n / 60_000_000_000;
                if minutes >= 60 {
                    write!(f, "{}h", minutes / 60)?;
                }
                if minutes > 0 {
                    write!(f, "{}m", minutes % 60)?;
                }
                fraction(f, n % 60_000_000_000, 1_000_000_000, "s")
            }
        }
    }
}

impl Serialize for Duration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Duration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Duration::parse(&text).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_prints_as_go_prints_it() {
        for (input, printed) in [
            ("5s", "5s"),
            ("500ms", "500ms"),
            ("1h", "1h0m0s"),
            ("101s", "1m41s"),
            ("1.5s", "1.5s"),
            ("0", "0s"),
            ("1h30m", "1h30m0s"),
            ("1500us", "1.5ms"),
        ] {
            assert_eq!(Duration::parse(input).expect(input).to_string(), printed);
        }
    }

    #[test]
    fn what_is_no_duration_is_refused() {
        for input in ["", "5", "s", "-1s", "1d", "1.2.3s", "9999999999999999999h", "."] {
            assert!(Duration::parse(input).is_err(), "{input:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn parsing_what_was_printed_gives_the_same(nanos in 0u64..=i64::MAX as u64) {
            let duration = Duration(std::time::Duration::from_nanos(nanos));
            proptest::prop_assert_eq!(Duration::parse(&duration.to_string()), Ok(duration));
        }
    }
}
