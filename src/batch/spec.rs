//! What a batch is: guests, verbs, order and limits, every name resolved. Stored whole before its first item begins, so
//! that `resume` goes on with what was approved, whatever became of the file.

use jiff::civil::Time;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::lifecycle::state::Verb;

/// One batch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spec {
    /// Its name; one batch of a name is open at a time.
    pub name: String,
    /// What is done to each guest, in this order.
    pub verbs: Vec<Verb>,
    /// How much is done at a time.
    pub limits: Limits,
    /// When something may begin.
    pub window: Option<Window>,
    /// What is between two waves.
    pub between_waves: Gate,
    /// How many of a wave may fail before nothing new begins.
    pub stop_at_failed: Option<StopAt>,
    /// The guests, in the file's order; never empty.
    pub items: Vec<Item>,
}

/// One guest of a batch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Item {
    /// Guest of the inventory.
    pub guest: String,
    /// Wave it belongs to, counted from 0.
    pub wave: usize,
    /// Items that have to end well before it begins.
    pub after: Vec<usize>,
    /// What happens if one of its verbs does not end well.
    pub on_failure: OnFailure,
    /// How long all its verbs take together, in seconds, as the operator says.
    pub expected_s: Option<u64>,
    /// Host that is worked on: it runs the clone.
    pub host: String,
    /// Host whose disks are worked on: it holds the volumes.
    pub disk: String,
    /// Host into which the guest is moved over the network, if it is.
    pub link: Option<String>,
    /// The guest itself is worked on: its upgrade interrupts it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub in_place: bool,
}

/// How many at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Guests that one controller works on.
    pub parallel: usize,
    /// Guests of one host, whoever works on them, as all that follow.
    pub per_host: Option<usize>,
    /// Guests that are moved over the network into one host.
    pub per_link: Option<usize>,
    /// Guests of one host in a verb that copies, merges or removes volumes.
    pub per_disk: Option<usize>,
}

/// What is between two waves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Gate {
    /// A person approves the next one.
    #[default]
    Ask,
    /// The next one begins by itself if every guest of the last ended well.
    AllWell,
}

/// What happens after a failure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnFailure {
    /// The others go on; what stands is left for a person.
    #[default]
    Continue,
    /// Nothing new begins.
    Stop,
    /// The guest's run is aborted; the others go on.
    Abort,
}

/// So many failures of a wave (without waves: of the batch) that nothing new begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StopAt {
    /// Guests.
    Guests(usize),
    /// Percent of the wave's guests.
    Percent(u8),
}

impl StopAt {
    /// Whether so many failures of so many guests are too many.
    pub fn reached(self, failed: usize, of: usize) -> bool {
        match self {
            Self::Guests(most) => failed >= most,
            Self::Percent(most) => failed > 0 && failed * 100 >= usize::from(most) * of,
        }
    }
}

/// The time of day in which something may begin, in the zone of this machine. It may lead over midnight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Window {
    /// It opens.
    pub opens: Time,
    /// It closes.
    pub closes: Time,
}

impl std::str::FromStr for Window {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let time = |text: &str| {
            let (hour, minute) = text.trim().split_once(':')?;
            let digits = |text: &str| text.len() <= 2 && text.bytes().all(|byte| byte.is_ascii_digit());
            let number = |text: &str| Some(text).filter(|text| digits(text))?.parse().ok();
            Time::new(number(hour)?, number(minute)?, 0, 0).ok()
        };
        text.split_once('-')
            .and_then(|(opens, closes)| Some(Self { opens: time(opens)?, closes: time(closes)? }))
            .filter(|window| window.opens != window.closes)
            .ok_or_else(|| format!("{text:?} is not a window such as \"22:00-05:00\""))
    }
}

impl std::fmt::Display for Window {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.opens.strftime("%H:%M"), self.closes.strftime("%H:%M"))
    }
}

impl TryFrom<String> for Window {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Window> for String {
    fn from(window: Window) -> Self {
        window.to_string()
    }
}

impl Spec {
    /// Six hexadecimal digits that stand for the whole of it.
    pub fn digest(&self) -> String {
        digest_of(self)
    }

    /// Number of waves.
    pub fn waves(&self) -> usize {
        self.items.iter().map(|item| item.wave + 1).max().unwrap_or(1)
    }

    /// The verbs as words: `clone, upgrade, verify`.
    pub fn words(&self) -> String {
        self.verbs.iter().map(|verb| verb.word()).collect::<Vec<_>>().join(", ")
    }
}

/// Six hexadecimal digits that stand for a value.
pub fn digest_of(value: &impl Serialize) -> String {
    let text = serde_json::to_string(value).unwrap_or_default();
    Sha256::digest(text.as_bytes()).iter().take(3).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn windows_are_read_and_written() {
        let window: Window = "22:00-05:30".parse().unwrap();
        assert_eq!(window.to_string(), "22:00-05:30");
        for wrong in ["22:00", "22:00-24:00", "5-6", "22:00-22:00", "-1:00-02:00", "+1:00-02:00", "a", "22:00-5:0x"] {
            assert!(wrong.parse::<Window>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_share_of_failures_stops() {
        assert!(!StopAt::Percent(20).reached(7, 40) && StopAt::Percent(20).reached(8, 40));
        assert!(!StopAt::Percent(1).reached(0, 40) && StopAt::Percent(100).reached(1, 1));
        assert!(StopAt::Guests(2).reached(2, 40) && !StopAt::Guests(2).reached(1, 40));
    }
}
