//! The ten characters of `lv_attr`, as words (`lvs(8)`, NOTES).

use std::str::FromStr;

/// What a logical volume is, by the first character.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An ordinary volume, striped, RAID, cached, whatever carries it (`-`, `r`, `R`, `C`, `m`, `M`, `w`).
    Plain,
    /// An ordinary volume with thick snapshots (`o`).
    Origin,
    /// A volume into which a snapshot is being merged, or will be (`O`), thin ones included.
    MergingOrigin,
    /// A thick snapshot (`s`).
    Snapshot,
    /// A snapshot that is being merged into its origin, or will be (`S`), thin ones included.
    MergingSnapshot,
    /// A thin volume, snapshot or not (`V`).
    Thin,
    /// A thin pool (`t`).
    Pool,
    /// Anything else: parts of other volumes, volumes under conversion, foreign kinds. By its character.
    Other(char),
}

/// The state, by the fifth character.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Active (`a`), suspended for the moment (`s`) included.
    Active,
    /// Not active (`-`).
    Inactive,
    /// A snapshot that filled up and is lost (`I`, `S`).
    Invalid,
    /// A snapshot whose merge failed (`m`, `M`).
    MergeFailed,
    /// Anything else, by its character (`d`, `i`, `c`, `C`, `h`, `X`).
    Other(char),
}

/// `lv_attr`, read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attr {
    /// What it is.
    pub kind: Kind,
    /// May be written.
    pub writable: bool,
    /// How it stands.
    pub state: State,
    /// Something on this machine has it open; `None` if that could not be told.
    pub open: Option<bool>,
    /// The ninth character where it is not `-`: `p` parts are missing, and for pools `D` out of data space, `M` metadata
    /// read-only, `F` failed.
    pub health: Option<char>,
    /// Skipped when volumes are activated by the lot, at boot for instance.
    pub skip: bool,
}

impl Attr {
    /// Something would be lost with it: thick snapshots, or a merge under way.
    pub fn has_snapshots(self) -> bool {
        matches!(self.kind, Kind::Origin | Kind::MergingOrigin)
    }
    /// Is being merged away, or will be.
    pub fn merging(self) -> bool {
        self.kind == Kind::MergingSnapshot
    }
}

impl FromStr for Attr {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{text:?} are not the attributes of a logical volume");
        let chars: Vec<char> = text.chars().collect();
        // Releases of before 2012 have eight characters, without health and skip.
        if !text.is_ascii() || !(8..=16).contains(&chars.len()) {
            return Err(bad());
        }
        let kind = match chars[0] {
            '-' | 'r' | 'R' | 'C' | 'm' | 'M' | 'w' => Kind::Plain,
            'o' => Kind::Origin,
            'O' => Kind::MergingOrigin,
            's' => Kind::Snapshot,
            'S' => Kind::MergingSnapshot,
            'V' => Kind::Thin,
            't' => Kind::Pool,
            other => Kind::Other(other),
        };
        let state = match chars[4] {
            'a' | 's' => State::Active,
            '-' => State::Inactive,
            'I' | 'S' => State::Invalid,
            'm' | 'M' => State::MergeFailed,
            other => State::Other(other),
        };
        let open = match chars[5] {
            'o' => Some(true),
            '-' => Some(false),
            'X' => None,
            _ => return Err(bad()),
        };
        Ok(Self {
            kind,
            writable: chars[1] == 'w',
            state,
            open,
            health: chars.get(8).copied().filter(|c| *c != '-'),
            skip: chars.get(9) == Some(&'k'),
        })
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn attr(text: &str) -> Attr {
        text.parse().unwrap()
    }

    #[test]
    fn recorded_attributes_are_read() {
        let plain = attr("-wi-a-----");
        assert_eq!((plain.kind, plain.state, plain.open), (Kind::Plain, State::Active, Some(false)));
        assert_eq!(attr("owi-a-s---").kind, Kind::Origin);
        assert_eq!((attr("swi-I-s---").kind, attr("swi-I-s---").state), (Kind::Snapshot, State::Invalid));
        assert_eq!((attr("Swi-aos---").kind, attr("Swi-aos---").open), (Kind::MergingSnapshot, Some(true)));
        assert_eq!(attr("Owi-aos---").kind, Kind::MergingOrigin);
        let thin = attr("Vwi---tz-k");
        assert_eq!((thin.kind, thin.state, thin.skip), (Kind::Thin, State::Inactive, true));
        assert_eq!((attr("twi-aotz--").kind, attr("twi-aotzD-").health), (Kind::Pool, Some('D')));
        assert_eq!(attr("Twi-ao----").kind, Kind::Other('T'));
    }

    #[test]
    fn what_is_no_attribute_is_refused() {
        for bad in ["", "-wi-a", "-wi-a?----", "owi-a-s---owi-a-s---"] {
            assert!(bad.parse::<Attr>().is_err(), "{bad}");
        }
    }
}
