//! Times as text: RFC 3339 in UTC with microseconds. Pure arithmetic; clocks are read in `sys`.

const DAY: i64 = 86_400_000_000;

/// Appends `2026-11-21T02:50:08.123456Z`.
pub fn write(out: &mut Vec<u8>, wall_micros: i64) {
    let (days, rest) = (wall_micros.div_euclid(DAY), wall_micros.rem_euclid(DAY));
    let (year, month, day) = date(days);
    let seconds = rest / 1_000_000;
    let mut put = |n: i64, width: u32, after: u8| {
        let mut unit = 10_i64.pow(width - 1);
        while unit > 0 {
            out.push(b'0' + (n / unit % 10) as u8);
            unit /= 10;
        }
        out.push(after);
    };
    put(year, 4, b'-');
    put(month, 2, b'-');
    put(day, 2, b'T');
    put(seconds / 3600, 2, b':');
    put(seconds / 60 % 60, 2, b':');
    put(seconds % 60, 2, b'.');
    put(rest % 1_000_000, 6, b'Z');
}

pub fn text(wall_micros: i64) -> String {
    let mut out = Vec::with_capacity(27);
    write(&mut out, wall_micros);
    String::from_utf8(out).unwrap_or_default()
}

/// Reads back what [`write()`] wrote.
pub fn parse(text: &str) -> Option<i64> {
    let b = text.as_bytes();
    if b.len() != 27 || b[4] != b'-' || b[10] != b'T' || b[19] != b'.' || b[26] != b'Z' {
        return None;
    }
    let n = |from: usize, to: usize| text.get(from..to)?.parse::<i64>().ok();
    let days = days(n(0, 4)?, n(5, 7)?, n(8, 10)?);
    let seconds = n(11, 13)? * 3600 + n(14, 16)? * 60 + n(17, 19)?;
    Some(days * DAY + seconds * 1_000_000 + n(20, 26)?)
}

/// A span of time, as a person says it.
pub fn duration(micros: i64) -> String {
    let seconds = micros / 1_000_000;
    match seconds {
        ..=0 => format!("{} ms", (micros / 1000).max(0)),
        1..=119 => format!("{seconds} s"),
        120..=7199 => format!("{} min", seconds / 60),
        7200..=172_799 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// Civil date of a day number (0 is 1970-01-01). Years begin in March here, so that a leap day comes last.
fn date(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let shifted = if month > 2 { month - 3 } else { month + 9 };
    let day_of_year = (153 * shifted + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_moments() {
        assert_eq!(text(0), "1970-01-01T00:00:00.000000Z");
        assert_eq!(text(1_709_210_096_789_012), "2024-02-29T12:34:56.789012Z");
        assert_eq!(text(-1), "1969-12-31T23:59:59.999999Z");
    }

    #[test]
    fn what_is_written_is_read_back() {
        for day in (-30_000..60_000).step_by(13) {
            let at = day * DAY + day.rem_euclid(86_400) * 1_000_003;
            assert_eq!(parse(&text(at)), Some(at), "{}", text(at));
        }
        assert_eq!(parse("yesterday"), None);
    }
}
