//! Many guests, one declared run: which verbs, how many at a time, in which order, in which hours, and what happens when
//! one of them fails.
//!
//! * [`file`] reads what the operator declared into a [`spec`], which is stored whole.
//! * [`schedule`] says what may go on now; [`window`] and [`expect`] tell it of hours and lengths. Pure.
//! * [`item`] is one guest: what is to be done next follows from the state of its run, so that a guest may be resumed or
//!   aborted by hand at any time, before, during and after.
//! * [`run`] moves the batch on: takes items, carries their verbs out as any invocation would, writes down how they ended.
//! * [`tell`] is what it says meanwhile; [`ending`] says what it means that there is nothing to do any more; [`abort`] gives up what a batch made.
//! * [`status`] and [`report`] tell, from the journal alone.
//!
//! An item is an ordinary run with a lease and a journal of its own; a batch adds nothing to what a verb may do.

pub mod abort;
mod crew;
pub mod ending;
pub mod expect;
pub mod file;
pub mod item;
pub mod preflight;
pub mod report;
pub mod run;
pub mod schedule;
pub mod spec;
pub mod status;
pub mod tell;
pub mod window;
