//! One guest of a batch: what is to be done next, and doing it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::spec::OnFailure;
use crate::engine::ErrorInfo;
use crate::journal::{Holder, RunRecord};
use crate::lifecycle::app::{App, Finish, Options};
use crate::lifecycle::error::exit;
use crate::lifecycle::query;
use crate::lifecycle::state::{State, Verb};

/// How an item stands, as it is stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stands {
    /// It has not begun.
    #[default]
    Waiting,
    /// It has begun; nobody is at it.
    Between,
    /// Its holder is at it.
    Working,
    /// Every verb ended well.
    Well,
    /// A verb did not end well.
    Failed,
    /// It never began: what it comes after did not end well.
    Left,
}

/// The record of an item.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ItemRecord {
    /// How it stands.
    pub stands: Stands,
    /// Place of the verb that is in hand, or next.
    pub verb: usize,
    /// Who is at it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder: Option<Holder>,
    /// Its run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
    /// When its first verb began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub begun: Option<Timestamp>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Timestamp>,
    /// What was done in this batch, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub past: Vec<Past>,
    /// Why it failed, or was left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorInfo>,
    /// After its failure its run was aborted, as asked for.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub aborted: bool,
    /// Its run is over, without what was asked for: what begins again begins another.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub over: bool,
}

/// A verb that was carried out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Past {
    /// Which.
    pub verb: Verb,
    /// Its exit code.
    pub code: u8,
    /// How long it took.
    pub elapsed_s: f64,
    /// How long production was down.
    pub outage_s: f64,
}

/// What is to be done to a guest now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// The verb at this place.
    Begin(usize),
    /// The verb at this place was interrupted: on with it.
    Resume(usize),
    /// Nothing more.
    Nothing,
    /// Its run was aborted, by hand: nothing more, and not what was asked for.
    GivenUp,
    /// Something that is not the batch's is under way.
    Foreign(State),
}

/// How far along the lifecycle a state is: the last verb of it that is done.
fn reached(state: State) -> Option<Verb> {
    Some(match state {
        State::Cloned => Verb::Clone,
        State::Upgraded => Verb::Upgrade,
        State::Verified => Verb::Verify,
        State::Promoted => Verb::Promote,
        State::Committed => Verb::Commit,
        _ => return None,
    })
}

fn during(state: State) -> Option<Verb> {
    Some(match state {
        State::Cloning => Verb::Clone,
        State::Upgrading => Verb::Upgrade,
        State::Verifying => Verb::Verify,
        State::Promoting => Verb::Promote,
        State::RollingBack => Verb::Rollback,
        State::Committing => Verb::Commit,
        State::Aborting => Verb::Abort,
        _ => return None,
    })
}

const ORDER: [Verb; 5] = [Verb::Clone, Verb::Upgrade, Verb::Verify, Verb::Promote, Verb::Commit];

fn rank(verb: Verb) -> usize {
    ORDER.iter().position(|known| *known == verb).map_or(0, |place| place + 1)
}

/// What is to be done next. `state`: of the guest's open run, or of the closed one that this batch knows; `done`: the batch
/// has carried its only verb out.
pub fn next(verbs: &[Verb], state: Option<State>, done: bool) -> Next {
    let Some(state) = state else { return Next::Begin(0) };
    if let Some(verb) = during(state) {
        return verbs.iter().position(|known| *known == verb).map_or(Next::Foreign(state), Next::Resume);
    }
    if let [only] = verbs
        && matches!(only, Verb::Verify | Verb::Rollback | Verb::Abort)
    {
        let over = done || (*only == Verb::Abort && state == State::Aborted);
        return if over { Next::Nothing } else { Next::Begin(0) };
    }
    let Some(last) = reached(state) else { return Next::GivenUp };
    match verbs.iter().position(|verb| rank(*verb) > rank(last)) {
        Some(place) => Next::Begin(place),
        None => Next::Nothing,
    }
}

/// What became of an item in one go.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// Its next verb is the one at this place: that was not the one that was begun.
    Elsewhere(usize),
    /// A verb ended.
    Ended {
        /// What was done.
        past: Past,
        /// The run.
        run: Option<String>,
        /// Why it did not end well.
        error: Option<ErrorInfo>,
        /// It was stopped, by a person: it goes on another time.
        stopped: bool,
        /// After the failure its run was aborted.
        aborted: bool,
        /// Its run is over: it was aborted, or a clone that failed was undone.
        over: bool,
    },
    /// There is nothing more to do.
    Nothing,
    /// It cannot go on.
    Cannot(ErrorInfo),
}

/// The run of an item: the guest's open one, else the one that the item knows.
fn run_of(app: &App, guest: &str, known: Option<&str>) -> Result<Option<RunRecord>, ErrorInfo> {
    let look = || -> Result<Option<RunRecord>, crate::lifecycle::error::Failure> {
        let journal = app.journal()?;
        if let Some(open) = journal.open_of(guest)? {
            return Ok(Some(open));
        }
        Ok(known.map(|run| journal.run(run)).transpose()?.flatten())
    };
    look().map_err(|failure| failure.0)
}

/// Carries one verb of an item out, or finds that there is none.
pub async fn go_on(app: &App, guest: &str, verbs: &[Verb], record: &ItemRecord, policy: OnFailure) -> Outcome {
    let run = match run_of(app, guest, record.run.as_deref()) {
        Ok(run) => run,
        Err(error) => return Outcome::Cannot(error),
    };
    let state = run.as_ref().and_then(|run| State::parse(&run.state));
    let done = record.past.iter().any(|past| past.code == exit::DONE);
    let verb = match next(verbs, state, done) {
        Next::Begin(place) | Next::Resume(place) if place != record.verb => return Outcome::Elsewhere(place),
        Next::Begin(place) => verbs[place],
        Next::Resume(_) => Verb::Resume,
        Next::Nothing => return Outcome::Nothing,
        Next::GivenUp => {
            return Outcome::Cannot(ErrorInfo {
                code: exit::STATE,
                message: format!("go on with {guest}"),
                causes: vec!["its run was aborted".to_owned()],
                ..ErrorInfo::default()
            });
        }
        Next::Foreign(state) => {
            return Outcome::Cannot(ErrorInfo {
                code: exit::STATE,
                message: format!("go on with {guest}"),
                causes: vec![format!("its run is {}", state.word().replace('_', " "))],
                help: Some(format!("upgradectl resume {guest}; then upgradectl batch resume FILE --failed")),
                ..ErrorInfo::default()
            });
        }
    };
    let began = std::time::Instant::now();
    let options = Options { yes: true, ..Options::default() };
    let finish = app.change(verb, guest, &options).await;
    let past = Past {
        verb: verbs[record.verb],
        code: finish.code,
        elapsed_s: began.elapsed().as_secs_f64(),
        outage_s: finish.outage_s,
    };
    let asked = app.stop.load(std::sync::atomic::Ordering::Relaxed);
    // A promotion that is stopped while production is down takes itself back.
    let stopped = asked && matches!(finish.code, exit::PARTWAY | exit::UNDONE);
    let run = finish.run.clone().or_else(|| run.map(|run| run.id));
    let now = run_of(app, guest, run.as_deref()).ok().flatten();
    let state = now.as_ref().and_then(|run| State::parse(&run.state));
    let error = match finish.code {
        exit::DONE if went_on(verbs, record.verb, state) => None,
        // What was resumed was the way back.
        exit::DONE => Some(ErrorInfo {
            code: exit::UNDONE,
            message: format!("{} {guest}", verbs[record.verb].word()),
            causes: vec!["it was undone: all is as before the verb".to_owned()],
            ..ErrorInfo::default()
        }),
        _ => Some(error_of(&finish, guest, verb)),
    };
    let mut over = error.is_some() && now.as_ref().is_none_or(|run| run.closed.is_some());
    let give_up = error.is_some() && !asked && !over && policy == OnFailure::Abort && finish.code != exit::LOCKED;
    let aborted = match now.filter(|_| give_up) {
        Some(run) => given_up(app, &run).await,
        None => false,
    };
    over |= aborted;
    Outcome::Ended { past, run, error, stopped, aborted, over }
}

/// Whether a run in this state is past the verb at this place.
fn went_on(verbs: &[Verb], place: usize, state: Option<State>) -> bool {
    match next(verbs, state, true) {
        Next::Begin(next) => next > place,
        Next::Nothing => true,
        Next::Resume(_) | Next::Foreign(_) | Next::GivenUp => false,
    }
}

/// Why a verb did not end well, with the command to go on with.
fn error_of(finish: &Finish, guest: &str, verb: Verb) -> ErrorInfo {
    let mut error = finish.error.clone().unwrap_or_else(|| ErrorInfo {
        message: format!("{} {guest}", verb.word()),
        causes: vec![match finish.code {
            exit::UNPROVEN => "checks failed".to_owned(),
            code => format!("exit code {code}"),
        }],
        ..ErrorInfo::default()
    });
    error.code = finish.code;
    error
}

/// Aborts the run of an item that failed; not if production ever lived on the clone, or is worked on itself: what was written
/// there is for a person to give up.
async fn given_up(app: &App, run: &RunRecord) -> bool {
    let holds = app.journal().is_ok_and(|journal| query::holds_production(&*journal, run).unwrap_or(true));
    if holds {
        return false;
    }
    let options = Options { yes: true, ..Options::default() };
    app.change(Verb::Abort, &run.id, &options).await.code == exit::DONE
}

#[cfg(test)]
mod tests {
    use super::*;

    const NIGHT: [Verb; 3] = [Verb::Clone, Verb::Upgrade, Verb::Verify];

    #[test]
    fn the_state_of_the_run_says_what_is_next() {
        for (state, next_) in [
            (None, Next::Begin(0)),
            (Some(State::Cloning), Next::Resume(0)),
            (Some(State::Cloned), Next::Begin(1)),
            (Some(State::Upgrading), Next::Resume(1)),
            (Some(State::Upgraded), Next::Begin(2)),
            (Some(State::Verifying), Next::Resume(2)),
            (Some(State::Verified), Next::Nothing),
            (Some(State::Promoted), Next::Nothing),
            (Some(State::Committed), Next::Nothing),
            (Some(State::Promoting), Next::Foreign(State::Promoting)),
            (Some(State::Aborting), Next::Foreign(State::Aborting)),
            (Some(State::Aborted), Next::GivenUp),
        ] {
            assert_eq!(next(&NIGHT, state, false), next_, "{state:?}");
        }
        // After coffee.
        assert_eq!(next(&[Verb::Promote], Some(State::Verified), false), Next::Begin(0));
        assert_eq!(next(&[Verb::Promote], Some(State::Promoted), false), Next::Nothing);
    }

    #[test]
    fn what_was_undone_has_not_gone_on() {
        assert!(went_on(&NIGHT, 1, Some(State::Upgraded)) && went_on(&NIGHT, 2, Some(State::Verified)));
        assert!(!went_on(&NIGHT, 1, Some(State::Cloned)) && !went_on(&NIGHT, 0, Some(State::Aborted)));
        assert!(!went_on(&[Verb::Promote], 0, Some(State::Upgraded)) && !went_on(&NIGHT, 0, None));
        assert!(went_on(&[Verb::Abort], 0, Some(State::Aborted)) && went_on(&[Verb::Verify], 0, Some(State::Promoted)));
    }

    #[test]
    fn a_verb_that_stands_alone_is_done_once() {
        for verb in [Verb::Verify, Verb::Rollback] {
            assert_eq!(next(&[verb], Some(State::Promoted), false), Next::Begin(0));
            assert_eq!(next(&[verb], Some(State::Promoted), true), Next::Nothing);
        }
        assert_eq!(next(&[Verb::Abort], Some(State::Cloned), false), Next::Begin(0));
        assert_eq!(next(&[Verb::Abort], Some(State::Aborting), false), Next::Resume(0));
        assert_eq!(next(&[Verb::Abort], Some(State::Aborted), false), Next::Nothing);
    }
}
