//! Whether a window is open, and how long it stays so. Pure.

use jiff::civil::Time;
use jiff::{Span, Timestamp, Zoned};

use super::spec::Window;

/// How a window stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hours {
    /// It is open until then.
    Open(Timestamp),
    /// It opens then.
    Closed(Timestamp),
}

/// How the window stands at this moment, in its zone. Where clocks are put forward over an edge of the window, the edge is
/// the moment at which they are.
pub fn hours(window: Window, now: &Zoned) -> Hours {
    let on = |days: i64, time: Time| {
        let date = now.date().checked_add(Span::new().days(days)).unwrap_or(now.date());
        date.to_datetime(time).to_zoned(now.time_zone().clone()).map_or(now.timestamp(), |zoned| zoned.timestamp())
    };
    let over_midnight = window.closes <= window.opens;
    // The one that began yesterday, today's, tomorrow's.
    for day in -1..=1 {
        let opens = on(day, window.opens);
        let closes = on(if over_midnight { day + 1 } else { day }, window.closes);
        if now.timestamp() < opens {
            return Hours::Closed(opens);
        }
        if now.timestamp() < closes {
            return Hours::Open(closes);
        }
    }
    Hours::Closed(on(2, window.opens))
}

/// Seconds for which the window is open on an ordinary day.
pub fn length_s(window: Window) -> f64 {
    let seconds = |time: Time| f64::from(time.hour()) * 3600.0 + f64::from(time.minute()) * 60.0;
    let length = seconds(window.closes) - seconds(window.opens);
    if length <= 0.0 { length + 86_400.0 } else { length }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn at(text: &str) -> (Hours, String) {
        let now: Zoned = text.parse().unwrap();
        let hours = hours("22:00-05:00".parse().unwrap(), &now);
        let (Hours::Open(edge) | Hours::Closed(edge)) = hours;
        (hours, edge.to_zoned(now.time_zone().clone()).datetime().to_string())
    }

    #[test]
    fn a_window_over_midnight() {
        for (now, open, edge) in [
            ("2026-11-26T21:59:59+01:00[Europe/Paris]", false, "2026-11-26T22:00:00"),
            ("2026-11-26T22:00:00+01:00[Europe/Paris]", true, "2026-11-27T05:00:00"),
            ("2026-11-27T04:59:59+01:00[Europe/Paris]", true, "2026-11-27T05:00:00"),
            ("2026-11-27T05:00:00+01:00[Europe/Paris]", false, "2026-11-27T22:00:00"),
            // Clocks go back at three: the night is an hour longer.
            ("2026-10-25T02:30:00+02:00[Europe/Paris]", true, "2026-10-25T05:00:00"),
        ] {
            let (hours, found) = at(now);
            assert_eq!((matches!(hours, Hours::Open(_)), found.as_str()), (open, edge), "{now}");
        }
    }

    #[test]
    fn a_window_by_day_and_its_length() {
        let window: Window = "09:30-17:00".parse().unwrap();
        let now: Zoned = "2026-11-26T17:00:00[UTC]".parse().unwrap();
        assert_eq!(hours(window, &now), Hours::Closed("2026-11-27T09:30:00Z".parse().unwrap()));
        assert!((length_s(window) - 7.5 * 3600.0).abs() < 1.0);
        assert!((length_s("22:00-05:00".parse().unwrap()) - 7.0 * 3600.0).abs() < 1.0);
    }
}
