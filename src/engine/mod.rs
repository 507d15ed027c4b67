//! Runs a stored [`Plan`] against the world and the journal: intent before effect, result after, undo in reverse,
//! resume, stuck. It knows the step contract, not what a step is about.
//!
//! ```text
//! for each step:  probe ─ Present ──────────────────────────▶ result
//!                   └ Absent, Partial ─▶ capture (once) ─▶ INTENT ─▶ apply ─▶ RESULT
//!                                                                     └ unknown ─▶ probe again, decide
//! failed:         plan says undo ─▶ the undos of all that has an intent, in reverse, as a stored plan of its own
//!                 plan says stop ─▶ the run stays in its verb; resume or abort
//! end, however:   temporary steps are undone, in reverse
//! ```
//!
//! Invariants: no effect without its intent on disk; what was captured is captured once; an undo needs only the
//! journal and the world; a plan is finished exactly once, together with the state it leads to.

pub mod event;
mod execute;
mod guarded;
pub mod history;
pub mod lease;
pub mod plan;
mod shared;
mod standing;
mod undo;

pub use event::{Emitter, ErrorInfo, Event, EventBody, Sink};
pub use execute::{Ended, Engine, EngineError, Report};
pub use plan::{OnFailure, Op, Outage, Plan, PlanStep, Stage, Undo, outages};
pub(crate) use undo::undo_steps;
