//! `batch`: many guests by one file.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, Subcommand};
use serde_json::json;

use super::change::Approval;
use super::context::Context;
use crate::batch::abort::Abortion;
use crate::batch::run::{Controller, End};
use crate::batch::schedule::Schedule;
use crate::batch::spec::Spec;
use crate::batch::tell::{News, Teller};
use crate::batch::{ending, expect, file, preflight, report, run, status};
use crate::engine::{ErrorInfo, Sink};
use crate::inventory::{Inventory, InventoryError};
use crate::journal::{BatchRecord, Batches, Journal, SqliteJournal};
use crate::lifecycle::app::{App, Front};
use crate::lifecycle::error::{Failure, exit};
use crate::lifecycle::page::Proposal;
use crate::output::batch::{Board, Lines};
use crate::output::{self, err, json, out};

/// `batch`.
#[derive(Debug, Subcommand)]
pub(super) enum Batch {
    /// Show the batch and look what stands in each guest's way; touches nothing
    Plan(OnFile),
    /// Carry the batch out
    Run(Start),
    /// Show how it stands: who is at what, what is left
    Status(OnFile),
    /// Go on with an interrupted batch, with its next wave, or beside another upgradectl
    Resume(Resume),
    /// Give up the clones that the batch made and did not promote; asks first
    Abort(Start),
    /// Tell what became of each guest, in Markdown (or JSON)
    Report(OnFile),
}

/// A batch file.
#[derive(Debug, Args)]
pub(super) struct OnFile {
    /// Batch file (TOML); once a batch has begun, its name will do
    file: PathBuf,
}

/// A batch file and an approval.
#[derive(Debug, Args)]
pub(super) struct Start {
    #[command(flatten)]
    on: OnFile,
    #[command(flatten)]
    approval: Approval,
}

/// `batch resume`.
#[derive(Debug, Args)]
pub(super) struct Resume {
    #[command(flatten)]
    on: OnFile,
    /// Try again what failed, and what was left for it
    #[arg(long)]
    failed: bool,
    /// Approve the next wave
    #[arg(short, long)]
    yes: bool,
}

/// Asks nobody: the batch was approved as a whole.
struct Approved;

impl Front for Approved {
    fn show(&self, _proposal: &Proposal, _asking: bool) {}
    fn confirm(&self, _word: &str) -> Option<bool> {
        None
    }
    fn ask(&self, _question: &str, _interrupted: u8) -> Option<bool> {
        None
    }
}

impl Batch {
    pub(super) fn only_looks(&self) -> bool {
        match self {
            Self::Plan(_) | Self::Status(_) | Self::Report(_) => true,
            Self::Run(start) | Self::Abort(start) => start.approval.dry_run,
            Self::Resume(_) => false,
        }
    }

    pub(super) fn run(&self, context: &Context) -> u8 {
        let result = match self {
            Self::Plan(on) => plan(context, &on.file),
            Self::Run(start) if start.approval.dry_run => plan(context, &start.on.file),
            Self::Run(start) => begin(context, start),
            Self::Status(on) => look(context, &on.file, show_status),
            Self::Resume(resume) => go_on(context, resume),
            Self::Abort(start) => abort(context, start),
            Self::Report(on) => look(context, &on.file, show_report),
        };
        result.unwrap_or_else(|failure| context.fail(&failure.0))
    }
}

fn load(path: &Path, inventory: &Inventory) -> Result<Spec, Failure> {
    file::load(path, inventory).map_err(|error| match error {
        InventoryError::Io { path, source } => Failure::new(exit::USAGE, "read the batch file")
            .cause(source.to_string())
            .place(path.display().to_string())
            .help("name a file such as templates/consolidation.toml"),
        InventoryError::Invalid(problems) => {
            let failure = Failure::new(exit::USAGE, "read the batch file");
            problems.iter().fold(failure, |failure, problem| failure.cause(problem.to_string()))
        }
    })
}

fn the_schedule(spec: &Spec, app: &App) -> Result<Schedule, Failure> {
    let book = Batches::open_read_only(&app.state)?;
    let remembered = |guest: &str| book.as_ref().and_then(|book| book.lengths(guest).ok()).unwrap_or_default();
    Ok(Schedule::new(spec, expect::lengths(spec, &app.inventory, remembered)))
}

/// The program with its events for the whole batch.
fn with_app(
    context: &Context,
    inventory: Inventory,
    sink: Sink,
    work: impl AsyncFnOnce(Arc<App>) -> Result<u8, Failure>,
) -> u8 {
    let mut app = context.app(inventory);
    (app.sink, app.front) = (sink, Arc::new(Approved));
    context.with(app, async |app| work(app.clone()).await.unwrap_or_else(|failure| context.fail(&failure.0)))
}

fn plan(context: &Context, path: &Path) -> Result<u8, Failure> {
    let inventory = context.inventory()?;
    let spec = load(path, &inventory)?;
    Ok(with_app(context, inventory, Arc::new(|_| {}), async |app| {
        let found = preflight::look(&app, &spec).await?;
        let wrong = found.iter().filter(|found| matches!(found, preflight::Found::Wrong(_))).count();
        let schedule = the_schedule(&spec, &app)?;
        if context.json() {
            let expected_s: Vec<f64> = (0..spec.items.len()).map(|index| schedule.left_s(index, 0)).collect();
            let length_s = schedule.clone().play();
            json::object(json!({
                "batch": spec, "digest": spec.digest(), "preflight": found, "expected_s": expected_s, "length_s": length_s,
            }));
        } else {
            out(&output::batch::page(&spec, schedule, Some(&found), true));
        }
        let all = found.iter().all(|found| !matches!(found, preflight::Found::NotLooked));
        Ok(match (wrong, all) {
            (0, true) => exit::DONE,
            (0, false) => exit::PARTWAY,
            _ => exit::REFUSED,
        })
    }))
}

fn begin(context: &Context, start: &Start) -> Result<u8, Failure> {
    let inventory = context.inventory()?;
    let spec = load(&start.on.file, &inventory)?;
    let (sink, teller) = voices(context, &spec.name);
    Ok(with_app(context, inventory, sink, async |app| {
        fits_the_window(&spec, &app)?;
        let shown = || Ok(output::batch::page(&spec, the_schedule(&spec, &app)?, None, false));
        approve(context, &start.approval, &spec.digest(), &spec.name, shown)?;
        let book = Batches::open(&app.state)?;
        let Some(batch) = run::begin(&book, &spec)? else {
            return Err(Failure::new(exit::STATE, format!("begin batch {}", spec.name))
                .cause("a batch of that name is open")
                .help(format!("upgradectl batch resume {0}, or upgradectl batch abort {0}", start.on.file.display())));
        };
        teller.news(&News::BatchStarted { guests: spec.items.len(), verbs: spec.verbs.clone(), waves: spec.waves() });
        carry_out(context, &app, book, &batch, &start.on.file, teller, Wishes::default()).await
    }))
}

/// Something that does not fit into the window on any day would be waited for in vain.
fn fits_the_window(spec: &Spec, app: &App) -> Result<(), Failure> {
    let Some(window) = spec.window else { return Ok(()) };
    let (schedule, length) = (the_schedule(spec, app)?, crate::batch::window::length_s(window));
    let Some(index) = (0..spec.items.len()).find(|index| schedule.left_s(*index, 0) > length) else { return Ok(()) };
    let guest = &spec.items[index].guest;
    Err(Failure::new(exit::REFUSED, format!("begin batch {}", spec.name))
        .cause(format!(
            "{guest} is expected to take {}, and the window {window} is shorter",
            output::format::about(schedule.left_s(index, 0))
        ))
        .place("window")
        .help(format!(
            "open it longer, give {guest} fewer verbs, or say what it takes: expected = \"2h\"; nothing was changed"
        )))
}

fn approve(
    context: &Context,
    approval: &Approval,
    digest: &str,
    word: &str,
    page: impl FnOnce() -> Result<String, Failure>,
) -> Result<(), Failure> {
    let wanted = approval.approve.as_deref();
    if wanted == Some(digest) {
        return Ok(());
    }
    if !context.json() {
        err(&page()?);
    }
    let undecided = || Failure::new(exit::UNDECIDED, format!("approve batch {word}"));
    if let Some(wanted) = wanted {
        return Err(undecided()
            .cause(format!("plan {wanted} was approved, but the batch is {digest} now"))
            .help(format!("read the page above, then --approve {digest}")));
    }
    if approval.yes {
        return Ok(());
    }
    match context.confirm(word) {
        Some(true) => Ok(()),
        Some(false) => Err(undecided().cause("not approved").help("nothing was changed")),
        None => Err(undecided()
            .cause("it needs an approval, and nobody can be asked here")
            .help(format!("read the page, then --approve {digest} (or --yes)"))),
    }
}

fn voices(context: &Context, name: &str) -> (Sink, Arc<dyn Teller>) {
    if context.json() {
        return (json::sink(false), Arc::new(Lines(name.to_owned())));
    }
    let board = Board::new(name, context.manner());
    (board.sink(), board)
}

/// What `resume` asks for beside going on.
#[derive(Clone, Copy, Debug, Default)]
struct Wishes {
    failed: bool,
    next_wave: bool,
}

/// Works at a batch until there is nothing to do, and tells why.
async fn carry_out(
    context: &Context,
    app: &Arc<App>,
    book: Batches,
    batch: &BatchRecord,
    path: &Path,
    teller: Arc<dyn Teller>,
    mut wishes: Wishes,
) -> Result<u8, Failure> {
    let book = Arc::new(book);
    let mut controller = Controller::new(app.clone(), book.clone(), batch, teller.clone(), wishes.failed)?;
    let end = loop {
        let end = controller.run().await?;
        // An approval that was given beforehand also passes a wave that did not end well.
        if end != End::Gate && !(end == End::NotWell && wishes.next_wave) {
            break end;
        }
        let (wave, tally) = controller.wave();
        teller.news(&News::WaveEnded { wave, guests: tally.guests, well: tally.well, failed: tally.failed });
        // An approval that was given with the command is for one wave.
        let approved = std::mem::take(&mut wishes.next_wave)
            || context.ask(&format!("Go on with wave {} of {}?", wave + 1, controller.spec.waves())) == Some(true);
        if !approved {
            break end;
        }
        controller.next_wave()?;
    };
    let (code, why) = ending::verdict(end, &controller, path);
    let total = controller.total();
    teller.news(&News::BatchEnded {
        exit_code: code,
        guests: total.guests,
        well: total.well,
        failed: total.failed,
        left: total.guests - total.well - total.failed,
        why: why.clone(),
    });
    let journal = app.journal()?;
    let told = report::report(&book, &*journal, batch)?;
    let place = report::write(&app.state, batch, &told, &output::batch::report(&told))?;
    if !context.json() {
        out(&output::batch::closing(&told, why.as_deref(), &place, path));
    }
    Ok(code)
}

/// The newest batch that a file, or a name, means.
fn find(book: Option<&Batches>, path: &Path) -> Result<BatchRecord, Failure> {
    let name = match file::name(path) {
        Some(name) => name,
        None if !path.exists() => path.display().to_string(),
        None => {
            return Err(Failure::new(exit::USAGE, "read the batch file")
                .cause("it says no name: [batch] with name = \"…\"")
                .place(path.display().to_string()));
        }
    };
    book.map(|book| book.newest(&name)).transpose()?.flatten().ok_or_else(|| {
        let help = match path.exists() {
            true => format!("upgradectl batch plan {0}, then upgradectl batch run {0}", path.display()),
            false => "name its file, or a batch that has begun".to_owned(),
        };
        Failure::new(exit::STATE, format!("find batch {name}")).cause("no batch of that name has begun").help(help)
    })
}

fn go_on(context: &Context, resume: &Resume) -> Result<u8, Failure> {
    let inventory = context.inventory()?;
    let book = Batches::open(&context.state)?;
    let batch = find(Some(&book), &resume.on.file)?;
    if batch.closed.is_some() {
        return Err(Failure::new(exit::STATE, format!("go on with batch {}", batch.name)).cause("it is closed").help(
            format!("upgradectl batch report {0}; upgradectl batch run {0} begins anew", resume.on.file.display()),
        ));
    }
    let spec: Spec = serde_json::from_value(batch.spec.clone())?;
    if file::load(&resume.on.file, &inventory).is_ok_and(|now| now != spec) {
        err("  ! the file, or the inventory, says something else now: what was approved goes on\n");
    }
    let (sink, teller) = voices(context, &batch.name);
    Ok(with_app(context, inventory, sink, async |app| {
        teller.news(&News::BatchStarted { guests: spec.items.len(), verbs: spec.verbs.clone(), waves: spec.waves() });
        let wishes = Wishes { failed: resume.failed, next_wave: resume.yes };
        carry_out(context, &app, book, &batch, &resume.on.file, teller, wishes).await
    }))
}

fn look(
    context: &Context,
    path: &Path,
    show: fn(&Context, &Batches, &dyn Journal, &BatchRecord) -> Result<(), Failure>,
) -> Result<u8, Failure> {
    let book = Batches::open_read_only(&context.state)?;
    let batch = find(book.as_ref(), path)?;
    let journal = SqliteJournal::open_read_only(&context.state)?;
    let (Some(book), Some(journal)) = (book, journal) else {
        return Err(Failure::new(exit::JOURNAL, "open the journal"));
    };
    show(context, &book, &journal, &batch)?;
    Ok(exit::DONE)
}

fn show_status(context: &Context, book: &Batches, journal: &dyn Journal, batch: &BatchRecord) -> Result<(), Failure> {
    // Only the lengths that are expected rest on it.
    let inventory = context.inventory().unwrap_or_default();
    let status = status::status(book, journal, &inventory, batch)?;
    if context.json() {
        json::object(json!(status));
    } else {
        out(&output::batch::status(&status, context.style()));
    }
    Ok(())
}

fn show_report(context: &Context, book: &Batches, journal: &dyn Journal, batch: &BatchRecord) -> Result<(), Failure> {
    let report = report::report(book, journal, batch)?;
    if context.json() {
        json::line(&report);
    } else {
        out(&output::batch::report(&report));
    }
    Ok(())
}

fn abort(context: &Context, start: &Start) -> Result<u8, Failure> {
    let inventory = context.inventory()?;
    let book = Batches::open(&context.state)?;
    let batch = find(Some(&book), &start.on.file)?;
    let journal = SqliteJournal::open(&context.state)?;
    let (sink, _) = voices(context, &batch.name);
    Ok(with_app(context, inventory, sink, async |app| {
        let abortion = Abortion::of(&app, &book, &journal, &batch)?;
        let digest = abortion.digest();
        let page = format!("{}\nPlan {digest}.\n", output::batch::abortion(&batch.name, &abortion));
        if start.approval.dry_run {
            out(&page);
            return Ok(exit::DONE);
        }
        approve(context, &start.approval, &digest, &batch.name, || Ok(page))?;
        let tell = |guest: &str, error: Option<&ErrorInfo>| match error {
            Some(error) => {
                context.fail(error);
            }
            None if context.json() => {}
            None => out(&format!("{guest} is as it was\n")),
        };
        abortion.carry_out(&app, &book, &journal, &batch, tell).await
    }))
}
