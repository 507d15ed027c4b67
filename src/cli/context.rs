//! What every verb needs of its surroundings: inventory, directories, terminal, signals, runtime.

use std::io::{IsTerminal, stderr, stdout};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{Global, signals};
use crate::engine::{ErrorInfo, Sink};
use crate::inventory::{self, Inventory, InventoryError};
use crate::lifecycle::app::{App, Finish, Front};
use crate::lifecycle::error::{Failure, exit};
use crate::output::closing::{self, Ending};
use crate::output::front::Person;
use crate::output::terminal::{Manner, Seen, Terminal};
use crate::output::{self, Style, err, json, out};
use crate::{lifecycle, verify};

const STATE: &str = "/var/lib/upgradectl";
const SCRATCH: &str = "/run/upgradectl";

/// The surroundings of one invocation.
pub(super) struct Context {
    global: Global,
    pub(super) state: PathBuf,
    pub(super) plan_only: bool,
    terminal: Arc<Terminal>,
    person: Arc<Person>,
    manner: Manner,
}

impl Context {
    pub(super) fn new(global: Global, plan_only: bool) -> Self {
        let moving = stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        let manner = Manner {
            quiet: global.quiet,
            verbose: global.verbose > 0,
            moving,
            plan_only,
            style: Style::choose(global.color, &stderr()),
            out_style: Style::choose(global.color, &stdout()),
        };
        tracing_to_stderr(global.verbose);
        let person = Arc::new(Person::default());
        let state = global.state.clone().unwrap_or_else(|| PathBuf::from(STATE));
        Self { state, plan_only, terminal: Terminal::new(manner, person.clone()), person, manner, global }
    }

    /// How much is told, and how.
    pub(super) fn manner(&self) -> Manner {
        self.manner
    }

    /// Asks for a word; `None` if nobody can be asked.
    pub(super) fn confirm(&self, word: &str) -> Option<bool> {
        if self.global.json { None } else { self.terminal.confirm(word) }
    }

    /// Asks yes or no; `None` if nobody can be asked.
    pub(super) fn ask(&self, question: &str) -> Option<bool> {
        if self.global.json { None } else { self.terminal.ask(question, exit::UNDECIDED) }
    }

    pub(super) fn json(&self) -> bool {
        self.global.json
    }

    pub(super) fn style(&self) -> Style {
        Style::choose(self.global.color, &stdout())
    }

    fn err_style(&self) -> Style {
        Style::choose(self.global.color, &stderr())
    }

    pub(super) fn inventory_path(&self) -> &Path {
        &self.global.inventory
    }

    /// Reads the inventory.
    pub(super) fn inventory(&self) -> Result<Inventory, Failure> {
        inventory::load(&self.global.inventory).map_err(|error| match error {
            InventoryError::Io { path, source } => Failure::new(exit::USAGE, "read the inventory")
                .cause(source.to_string())
                .place(path.display().to_string())
                .help("upgradectl init writes one to start from; -i FILE names another"),
            InventoryError::Invalid(problems) => {
                let failure = Failure::new(exit::USAGE, "read the inventory");
                problems.iter().fold(failure, |failure, problem| failure.cause(problem.to_string()))
            }
        })
    }

    /// The program with its journal, terminal and inventory.
    pub(super) fn app(&self, inventory: Inventory) -> App {
        let (sink, front): (Sink, Arc<dyn Front>) = if self.global.json {
            (json::sink(self.plan_only), Arc::new(json::JsonFront { plan_only: self.plan_only }))
        } else {
            (self.terminal.sink(), self.terminal.clone())
        };
        let scratch = match &self.global.state {
            Some(state) => state.join("run"),
            None => PathBuf::from(SCRATCH),
        };
        let stop = Arc::new(AtomicBool::new(false));
        App { inventory, state: self.state.clone(), scratch, sink, front, stop }
    }

    /// Runs work that changes the world: with the inventory, and with Ctrl-C meaning "stop after the step in hand".
    pub(super) fn with_app(&self, work: impl AsyncFnOnce(&App) -> u8) -> u8 {
        let inventory = match self.inventory() {
            Ok(inventory) => inventory,
            Err(failure) => return self.fail(&failure.0),
        };
        self.with(self.app(inventory), async |app| work(app).await)
    }

    /// The same with a program that is there already.
    pub(super) fn with(&self, app: App, work: impl AsyncFnOnce(&Arc<App>) -> u8) -> u8 {
        let app = Arc::new(app);
        let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return self.fail(&Failure::new(exit::BUG, "start").cause(error.to_string()).0),
        };
        runtime.block_on(async {
            let ended = signals::watch(app.stop.clone(), self.person.clone());
            let code = work(&app).await;
            // Now that no lease is held, the readers may take their time; Ctrl-C ends that.
            ended.store(code.into(), Ordering::Relaxed);
            output::drain();
            code
        })
    }

    /// Runs a query that has to wait for machines.
    pub(super) fn block_on<T>(&self, work: impl Future<Output = T>) -> Result<T, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime
            .map(|runtime| runtime.block_on(work))
            .map_err(|error| Failure::new(exit::BUG, "start").cause(error.to_string()))
    }

    /// Tells of a failure outside of any verb's events; returns its exit code.
    pub(super) fn fail(&self, error: &ErrorInfo) -> u8 {
        if self.global.json {
            json::failure(error);
        } else {
            err(&closing::plain_failure(error, self.err_style()));
        }
        error.code
    }

    /// The last words of a changing verb; returns its exit code.
    pub(super) fn close(&self, app: &App, verb: &str, finish: &Finish) -> u8 {
        if self.global.json {
            if let Some(error) = finish.error.as_ref().filter(|_| self.plan_only && !finish.planned) {
                json::failure(error);
            }
            return finish.code;
        }
        let seen = self.terminal.seen();
        let report = report(finish, &seen);
        let never_down = finish.run.as_deref().is_some_and(|run| never_down(app, run));
        let ending = Ending { verb, finish, seen: &seen, report: report.as_ref(), never_down };
        if !finish.planned {
            out(&closing::result(&ending, self.style()));
        }
        err(&closing::failure(&ending, self.err_style()));
        finish.code
    }
}

/// The report of the checks that this invocation made.
fn report(finish: &Finish, seen: &Seen) -> Option<verify::Report> {
    if seen.checks.is_empty() {
        return None;
    }
    let directory = &finish.record.as_ref()?.run_dir;
    let number = |name: &str| -> Option<usize> { name.strip_prefix("checks-")?.strip_suffix(".json")?.parse().ok() };
    let newest =
        std::fs::read_dir(directory).ok()?.filter_map(|entry| number(entry.ok()?.file_name().to_str()?)).max()?;
    let bytes = std::fs::read(directory.join(format!("checks-{newest}.json"))).ok()?;
    serde_json::from_slice(&bytes).ok()
}

fn never_down(app: &App, run: &str) -> bool {
    let journal = app.journal_read_only().ok().flatten();
    journal.is_some_and(|journal| lifecycle::query::never_down(&*journal, run).unwrap_or(false))
}

/// What the program itself does, for those who look for a fault in it: `UPGRADECTL_LOG`, or `-v`.
fn tracing_to_stderr(verbose: u8) {
    use tracing_subscriber::EnvFilter;
    let filter = match (EnvFilter::try_from_env("UPGRADECTL_LOG"), verbose) {
        (Ok(filter), _) => filter,
        (Err(_), 0) => return,
        (Err(_), 1) => EnvFilter::new("upgradectl=info,hypervisors=info"),
        (Err(_), _) => EnvFilter::new("upgradectl=debug,hypervisors=debug"),
    };
    // Its own complaints about a lost terminal would end the program.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(output::Details::default)
        .with_ansi(false)
        .log_internal_errors(false)
        .try_init();
}
