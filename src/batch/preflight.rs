//! What stands in the way of each guest, found out before the night: the plan of its next verb, touching nothing.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde::Serialize;

use super::crew::{Crew, Done};
use super::item::{Next, next};
use super::spec::Spec;
use crate::engine::ErrorInfo;
use crate::lifecycle::app::{App, Options};
use crate::lifecycle::error::{Failure, exit};
use crate::lifecycle::state::State;

/// What was found of one guest.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Found {
    /// This verb can be begun (by its place).
    Ready(usize),
    /// This verb was interrupted and will be resumed.
    Resumes(usize),
    /// There is nothing left to do.
    Nothing,
    /// A person ended the look before it was its turn.
    NotLooked,
    /// It will fail.
    Wrong(ErrorInfo),
}

/// Looks at every guest, some at a time, in the order of the batch.
///
/// # Errors
/// If the journal cannot be read.
pub async fn look(app: &Arc<App>, spec: &Spec) -> Result<Vec<Found>, Failure> {
    let journal = app.journal_read_only()?;
    let mut found: Vec<Found> = vec![Found::NotLooked; spec.items.len()];
    let mut crew = Crew::new();
    let mut at_work = 0;
    for (index, item) in spec.items.iter().enumerate() {
        let run = journal.as_ref().map(|journal| journal.open_of(&item.guest)).transpose()?.flatten();
        let state = run.as_ref().and_then(|run| State::parse(&run.state));
        let place = match next(&spec.verbs, state, false) {
            Next::Begin(place) => place,
            Next::Resume(place) => {
                found[index] = Found::Resumes(place);
                continue;
            }
            Next::Nothing | Next::GivenUp => {
                found[index] = Found::Nothing;
                continue;
            }
            Next::Foreign(state) => {
                found[index] = Found::Wrong(ErrorInfo {
                    code: exit::STATE,
                    message: format!("begin {}", item.guest),
                    causes: vec![format!("its run is {}", state.word().replace('_', " "))],
                    help: Some(format!("upgradectl resume {}", item.guest)),
                    ..ErrorInfo::default()
                });
                continue;
            }
        };
        if app.stop.load(Ordering::Relaxed) {
            break;
        }
        if at_work == spec.limits.parallel {
            note(&mut found, crew.next().await)?;
            at_work -= 1;
        }
        let (app, guest, verb) = (app.clone(), item.guest.clone(), spec.verbs[place]);
        at_work += 1;
        crew.begin(index, move || async move {
            let options = Options { dry_run: true, ..Options::default() };
            app.change(verb, &guest, &options).await.error.map_or(Found::Ready(place), Found::Wrong)
        });
    }
    while !crew.is_idle() {
        note(&mut found, crew.next().await)?;
    }
    Ok(found)
}

fn note(found: &mut [Found], (index, what): Done<Found>) -> Result<(), Failure> {
    found[index] = what.map_err(|why| Failure::new(exit::BUG, "look at a guest").cause(why))?;
    Ok(())
}
