//! Points in time as ctime(3) writes them, in UTC: the pretended host has no other time zone.

const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];

/// A point in time, taken apart.
pub struct Time {
    /// With its century.
    pub year: i64,
    month: usize,
    /// From 1.
    pub day: i64,
    weekday: usize,
    /// Of 24.
    pub hour: i64,
    /// Of the hour.
    pub minute: i64,
    second: i64,
}

impl Time {
    /// Of seconds since the epoch.
    pub fn of(seconds: i64) -> Self {
        let (days, rest) = (seconds.div_euclid(86400), seconds.rem_euclid(86400));
        // Days since 1 March of the year 0: a year then ends with its leap day.
        let since = days + 719_468;
        let era = since.div_euclid(146_097);
        let of_era = since.rem_euclid(146_097);
        let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let march = (5 * of_year + 2) / 153;
        let month = (march + 2) % 12;
        Self {
            year: year_of_era + era * 400 + i64::from(month < 2),
            month: usize::try_from(month).unwrap_or(0),
            day: of_year - (153 * march + 2) / 5 + 1,
            weekday: usize::try_from(days.rem_euclid(7)).unwrap_or(0),
            hour: rest / 3600,
            minute: rest / 60 % 60,
            second: rest % 60,
        }
    }

    /// Now.
    pub fn now() -> Self {
        Self::of(now())
    }

    /// `Nov`.
    pub fn month_name(&self) -> &'static str {
        MONTHS[self.month]
    }

    /// `Sun Nov 22 01:43:12 2026`.
    pub fn text(&self) -> String {
        let Self { year, day, hour, minute, second, .. } = self;
        format!("{} {} {day:>2} {hour:02}:{minute:02}:{second:02} {year}", DAYS[self.weekday], self.month_name())
    }

    /// `Sun Nov 22 01:39:26 UTC 2026`, as date(1) does.
    pub fn dated(&self) -> String {
        let text = self.text();
        let (before, year) = text.rsplit_once(' ').unwrap_or((&text, ""));
        format!("{before} UTC {year}")
    }

    /// Seconds since the epoch of a text that [`Time::text`] made.
    pub fn parse(text: &str) -> Option<i64> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let [_, month, day, clock, year] = words.as_slice() else { return None };
        let month = i64::try_from(MONTHS.iter().position(|name| name == month)?).ok()? + 1;
        let (day, year): (i64, i64) = (day.parse().ok()?, year.parse().ok()?);
        let mut clock = clock.split(':').map(|part| part.parse::<i64>().ok());
        let (hour, minute, second) = (clock.next()??, clock.next()??, clock.next()??);
        let year = if month <= 2 { year - 1 } else { year };
        let of_era = year.rem_euclid(400);
        let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
        let days = year.div_euclid(400) * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
        Some(days * 86400 + hour * 3600 + minute * 60 + second)
    }
}

/// Seconds since the epoch.
pub fn now() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |now| i64::try_from(now.as_secs()).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::Time;

    #[test]
    fn there_and_back() {
        // Its name in the recordings: restore's /tmp/rstdir1795311911.
        assert_eq!(Time::of(1_795_311_911).text(), "Sun Nov 22 01:45:11 2026");
        for seconds in [0, 951_782_400, 1_709_164_799, 1_795_311_911] {
            assert_eq!(Time::parse(&Time::of(seconds).text()), Some(seconds));
        }
    }
}
