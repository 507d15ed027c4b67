//! `watch`: one look at the fill of the snapshots, or one after the other.

use std::io::{IsTerminal, stdout};
use std::sync::atomic::Ordering;
use std::time::Duration;

use clap::Args;
use serde_json::json;
use tokio::time::Instant;

use super::context::Context;
use crate::inventory::values::parse_duration;
use crate::lifecycle::app::App;
use crate::lifecycle::error::Failure;
use crate::lifecycle::watch::Watching;
use crate::output::watch::{Shown, lines, render};
use crate::output::{json, out};

/// How often it is asked whether it shall end.
const ATTENTION: Duration = Duration::from_millis(250);

/// `watch`.
#[derive(Debug, Args)]
pub(super) struct Watch {
    /// Guest, run, or the end of the run's id; every open run if left out
    guest: Option<String>,
    /// Look once and end; 6: a person has to make room, or to give a run up
    #[arg(long)]
    once: bool,
    /// How often to look
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "30s", conflicts_with = "once")]
    every: Duration,
}

impl Watch {
    pub(super) fn run(&self, context: &Context) -> u8 {
        let drawn =
            stdout().is_terminal() && !context.json() && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        let mut shown = Shown::default();
        let mut show = |watching: &Watching| {
            if context.json() {
                json::object(json!(watching));
            } else if self.once {
                out(&render(watching, &mut shown, context.style()));
            } else if drawn {
                out(&format!("\x1b[H\x1b[2J{}", render(watching, &mut shown, context.style())));
            } else {
                out(&lines(watching, &mut shown));
            }
        };
        context.with_app(async |app| {
            let mut trouble = None;
            loop {
                let began = Instant::now();
                match self.look(context, app).await {
                    Ok(watching) => {
                        show(&watching);
                        trouble = None;
                        if self.once {
                            return watching.exit_code();
                        }
                    }
                    Err(Failure(error)) if self.once => return context.fail(&error),
                    // It may be over at the next look (an inventory that is being edited, say); it is told once.
                    Err(Failure(error)) if trouble.as_ref() != Some(&error) => {
                        context.fail(&error);
                        trouble = Some(error);
                    }
                    Err(_) => {}
                }
                while began.elapsed() < self.every.max(Duration::from_secs(1)) {
                    if app.stop.load(Ordering::Relaxed) {
                        return 0;
                    }
                    tokio::time::sleep(ATTENTION).await;
                }
            }
        })
    }

    /// One look, by the inventory as it is now: guests come and go while this runs for months.
    async fn look(&self, context: &Context, app: &App) -> Result<Watching, Failure> {
        let now = App { stop: app.stop.clone(), ..context.app(context.inventory()?) };
        now.watch(self.guest.as_deref(), self.every).await
    }
}
