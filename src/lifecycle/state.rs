//! States of a run and which verbs each allows: the table of the interface page, as one function.

use serde::{Deserialize, Serialize};

/// States of a run. `…ing` states are verbs in progress or interrupted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the words of the lifecycle page")]
pub enum State {
    Cloning,
    Cloned,
    Upgrading,
    Upgraded,
    Verifying,
    Verified,
    Promoting,
    Promoted,
    RollingBack,
    Committing,
    Committed,
    Aborting,
    Aborted,
}

/// Verbs that act on a guest's run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the words of the command line")]
pub enum Verb {
    Clone,
    Upgrade,
    Verify,
    Promote,
    Rollback,
    Commit,
    Abort,
    Resume,
}

impl Verb {
    /// As it is typed.
    pub fn word(self) -> &'static str {
        match self {
            Self::Clone => "clone",
            Self::Upgrade => "upgrade",
            Self::Verify => "verify",
            Self::Promote => "promote",
            Self::Rollback => "rollback",
            Self::Commit => "commit",
            Self::Abort => "abort",
            Self::Resume => "resume",
        }
    }
}

impl State {
    /// As it is stored and shown.
    pub fn word(self) -> &'static str {
        match self {
            Self::Cloning => "cloning",
            Self::Cloned => "cloned",
            Self::Upgrading => "upgrading",
            Self::Upgraded => "upgraded",
            Self::Verifying => "verifying",
            Self::Verified => "verified",
            Self::Promoting => "promoting",
            Self::Promoted => "promoted",
            Self::RollingBack => "rolling_back",
            Self::Committing => "committing",
            Self::Committed => "committed",
            Self::Aborting => "aborting",
            Self::Aborted => "aborted",
        }
    }

    /// The state of that word.
    pub fn parse(word: &str) -> Option<Self> {
        serde_json::from_value(serde_json::Value::String(word.to_owned())).ok()
    }

    /// Whether a verb is under way (or was interrupted).
    pub fn in_progress(self) -> bool {
        matches!(
            self,
            Self::Cloning
                | Self::Upgrading
                | Self::Verifying
                | Self::Promoting
                | Self::RollingBack
                | Self::Committing
                | Self::Aborting
        )
    }

    /// The verbs allowed in this state. `irreversible`: the plan in hand has begun a step that cannot be taken back.
    /// `in_place`: there is no clone to promote.
    pub fn verbs(self, irreversible: bool, in_place: bool) -> &'static [Verb] {
        use Verb::{Abort, Commit, Promote, Resume, Rollback, Upgrade, Verify};
        match self {
            _ if irreversible && self.in_progress() => &[Resume],
            Self::Verified if in_place => &[Commit, Verify, Upgrade, Abort],
            Self::Cloned => &[Upgrade, Abort],
            Self::Upgraded => &[Verify, Upgrade, Abort],
            Self::Verified => &[Promote, Verify, Upgrade, Abort],
            Self::Promoted => &[Commit, Rollback, Verify, Abort],
            Self::Upgrading => &[Resume, Upgrade, Abort],
            Self::Promoting => &[Resume, Rollback, Abort],
            Self::Cloning | Self::Verifying | Self::RollingBack | Self::Aborting | Self::Committing => &[Resume, Abort],
            Self::Committed | Self::Aborted => &[],
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    const ALL: [State; 13] = [
        State::Cloning,
        State::Cloned,
        State::Upgrading,
        State::Upgraded,
        State::Verifying,
        State::Verified,
        State::Promoting,
        State::Promoted,
        State::RollingBack,
        State::Committing,
        State::Committed,
        State::Aborting,
        State::Aborted,
    ];

    #[test]
    fn words_are_read_back() {
        for state in ALL {
            assert_eq!(State::parse(state.word()).unwrap(), state);
        }
    }

    #[test]
    fn abort_is_offered_from_every_open_state_and_only_resume_past_the_irreversible() {
        for state in ALL {
            let open = !matches!(state, State::Committed | State::Aborted);
            assert_eq!(state.verbs(false, false).contains(&Verb::Abort), open, "{state:?}");
            if state.in_progress() {
                assert_eq!(state.verbs(true, false), [Verb::Resume]);
                assert!(state.verbs(false, false).contains(&Verb::Resume));
            }
        }
    }

    #[test]
    fn what_was_upgraded_in_place_is_committed_and_never_promoted() {
        assert!(State::Verified.verbs(false, true).contains(&Verb::Commit));
        assert!(ALL.iter().all(|state| !state.verbs(false, true).contains(&Verb::Promote)));
    }

    #[test]
    fn promote_wants_a_verification() {
        assert!(
            ALL.iter().all(|state| state.verbs(false, false).contains(&Verb::Promote) == (*state == State::Verified))
        );
    }
}
