//! The look: what is printed, as snapshots. Made by hand where a value matters, and from passages on the simulated
//! platform; run ids, times and paths are put in place by fixed ones of the same width.

use std::sync::{Arc, Mutex};

use hypervisors::sim;
use insta::assert_snapshot;
use jiff::Timestamp;

use super::closing::{self, Ending};
use super::page::{self, Look};
use super::terminal::Seen;
use super::{Style, error, json, log, status};
use crate::engine::event::{Emitter, StepInfo, StepOutcome};
use crate::engine::{ErrorInfo, Event, EventBody, Stage};
use crate::lifecycle::app::{App, Finish, Front, Options};
use crate::lifecycle::page::{Page, Proposal, Row};
use crate::lifecycle::preflight::{Finding, Verdict};
use crate::lifecycle::state::Verb;
use crate::lifecycle::{init, log as record, query};
use crate::steps::Manners;
use crate::verify::{CheckResult, Verdict as CheckVerdict};

/// Puts fixed values of the same width in place of what differs from day to day.
fn steady(test: impl FnOnce()) {
    let mut settings = insta::Settings::clone_current();
    settings.add_filter(r"/tmp/w\w{4}\b", "/tmp/wXXXX");
    settings.add_filter(r"mercure--[0-9a-z]{4}\b", "mercure--k3f9");
    settings.add_filter(r"\blog [0-9a-z]{4}\b", "log k3f9");
    settings.add_filter(r"(mercure  )[0-9a-z]{4}( )", "${1}k3f9$2");
    settings.add_filter(r"\d\d? \w{3} \d\d:\d\d", "22 Nov 21:04");
    settings.add_filter(r"([Pp]lan (\d+ )?)[0-9a-f]{6}", "${1}5f2c91");
    settings.add_filter(r#""(digest|plan)":( ?)"[0-9a-f]{6}""#, r#""$1":$2"5f2c91""#);
    settings.add_filter(r"\w+@\S+ pid \d+ upgradectl [0-9.]+", "root@here pid 7 upgradectl 0.1.0");
    settings.add_filter(r"\d+\.\d s\b", "0.0 s");
    settings.add_filter(r"in \d+ ms", "in 3 ms");
    settings.add_filter(r#""time":"[^"]*""#, r#""time":"2026-11-22T21:04:11.532Z""#);
    settings.add_filter(r#""(elapsed_s|outage_s)":\d+\.\d+(e-\d+)?"#, r#""$1":1.42"#);
    settings.bind(test);
}

/// Keeps what it is shown, and says yes.
#[derive(Default)]
struct Keeper(Mutex<Vec<Proposal>>);

impl Front for Keeper {
    fn show(&self, proposal: &Proposal, _: bool) {
        self.0.lock().unwrap().push(proposal.clone());
    }
    fn confirm(&self, _: &str) -> Option<bool> {
        Some(true)
    }
    fn ask(&self, _: &str, _: u8) -> Option<bool> {
        Some(false)
    }
}

struct World {
    _dir: tempfile::TempDir,
    app: App,
    keeper: Arc<Keeper>,
    events: Arc<Mutex<Vec<Event>>>,
}

impl World {
    fn new() -> Self {
        // Of one width wherever temporary files are kept: paths decide where lines break.
        let dir = tempfile::Builder::new().prefix("w").rand_bytes(4).tempdir_in("/tmp").unwrap();
        let (inventory, state) = (dir.path().join("i.toml"), dir.path().join("state"));
        init::init(&inventory, &state, None, true).unwrap();
        let (keeper, events) = (Arc::new(Keeper::default()), Arc::new(Mutex::new(Vec::new())));
        let sink = events.clone();
        let app = App {
            inventory: crate::inventory::load(&inventory).unwrap(),
            scratch: state.join("run"),
            state,
            sink: Arc::new(move |event: &Event| sink.lock().unwrap().push(event.clone())),
            front: keeper.clone(),
            stop: Arc::default(),
        };
        assert!(sim::Sim::open(&app.state.join("sim")).is_ok());
        Self { _dir: dir, app, keeper, events }
    }

    async fn verb(&self, verb: Verb, options: Options) -> Finish {
        self.events.lock().unwrap().clear();
        Box::pin(self.app.change(verb, "mercure", &options)).await
    }

    async fn planned(&self, verb: Verb) -> Proposal {
        self.verb(verb, Options { dry_run: true, ..Options::default() }).await;
        self.shown()
    }

    fn shown(&self) -> Proposal {
        self.keeper.0.lock().unwrap().pop().unwrap()
    }

    /// What `verb` prints at its end.
    async fn closed(&self, verb: Verb) -> String {
        let finish = self.verb(verb, Options::default()).await;
        let mut seen = Seen::default();
        self.events.lock().unwrap().iter().for_each(|event| seen.note(&event.body));
        let report = finish.record.as_ref().filter(|_| !seen.checks.is_empty()).map(|record| {
            let newest = (1..9).rev().map(|number| record.run_dir.join(format!("checks-{number}.json")));
            serde_json::from_slice(&std::fs::read(newest.into_iter().find(|path| path.exists()).unwrap()).unwrap())
                .unwrap()
        });
        let journal = self.app.journal().unwrap();
        let never_down = query::never_down(&*journal, finish.run.as_ref().unwrap()).unwrap();
        let ending = Ending { verb: verb.word(), finish: &finish, seen: &seen, report: report.as_ref(), never_down };
        format!("{}{}", closing::result(&ending, Style::default()), closing::failure(&ending, Style::default()))
    }
}

#[tokio::test]
async fn a_passage_from_clone_to_abort() {
    let world = World::new();
    let look = Look::default();
    let plan = page::plan(&world.planned(Verb::Clone).await, look);
    steady(|| assert_snapshot!("plan_clone", plan));
    let mut words = world.closed(Verb::Clone).await;
    let journal = world.app.journal().unwrap();
    let run = journal.runs(true).unwrap().remove(0);
    let mut line = query::status(&*journal, &run).unwrap();
    let since = line.since;
    let table =
        status::render(std::slice::from_ref(&line), since + jiff::SignedDuration::from_mins(12), Style::default());
    steady(|| assert_snapshot!("status_cloned", table));
    (line.state, line.interrupted, line.volumes[0].fill_percent) = ("upgrading".into(), true, Some(61.4));
    let table = status::render(&[line], since + jiff::SignedDuration::from_hours(50), Style::default());
    steady(|| assert_snapshot!("status_interrupted", table));
    for verb in [Verb::Upgrade, Verb::Verify, Verb::Promote] {
        words.push_str(&world.closed(verb).await);
    }
    let approval = page::approval(&world.shown(), look);
    steady(|| assert_snapshot!("approve_promote", approval));
    for verb in [Verb::Rollback, Verb::Abort] {
        words.push_str(&world.closed(verb).await);
    }
    steady(|| assert_snapshot!("closing_words", words));
    let run = record::find(Some(&*journal), "mercure").unwrap();
    let log = record::of_run(&*journal, &run).unwrap();
    assert_eq!((log.plans.len(), log.state.as_str()), (6, "aborted"));
    assert!(log.plans[0].steps[0].undone && log.plans.iter().all(|plan| plan.outcome.as_deref() == Some("done")));
    for text in [&plan, &approval, &words] {
        assert!(text.lines().all(|line| line.chars().count() <= 80), "wider than 80 columns:\n{text}");
    }
}

#[tokio::test]
async fn a_clone_that_is_aborted_at_once_never_stopped_the_original() {
    let world = World::new();
    world.closed(Verb::Clone).await;
    let words = world.closed(Verb::Abort).await;
    steady(|| assert_snapshot!("closing_abort", words));
    let journal = world.app.journal().unwrap();
    let run = record::find(Some(&*journal), "mercure").unwrap();
    let log = log::render(&record::of_run(&*journal, &run).unwrap());
    steady(|| assert_snapshot!("log", log));
}

#[tokio::test]
async fn json_of_a_plan_and_of_events() {
    let world = World::new();
    let mut plan = json::plan(&world.planned(Verb::Clone).await);
    // Long, and the page of the step's own tests.
    plan["steps"][1]["diff"] = "…".into();
    plan["steps"].as_array_mut().unwrap().truncate(3);
    plan["preflight"].as_array_mut().unwrap().truncate(2);
    let text = serde_json::to_string_pretty(&plan).unwrap();
    steady(|| assert_snapshot!("json_plan", text));
    world.verb(Verb::Clone, Options::default()).await;
    let events = world.events.lock().unwrap();
    let lines: Vec<String> = events
        .iter()
        .filter(|event| match &event.body {
            EventBody::StepStarted { step, .. } | EventBody::StepFinished { step, .. } => step.index == 1,
            EventBody::Command { .. } | EventBody::Progress { .. } => false,
            _ => true,
        })
        .map(|event| serde_json::to_string(event).unwrap())
        .collect();
    assert!(lines.last().unwrap().contains("verb_finished"));
    let numbers = renumbered(&lines.join("\n"));
    steady(|| assert_snapshot!("json_events", numbers));
}

/// Progress is a matter of luck, so the numbers of the other events are too.
fn renumbered(text: &str) -> String {
    let number = |line: &str| {
        let (head, rest) = line.split_once("\"seq\":").unwrap();
        format!("{head}\"seq\":1{}", rest.trim_start_matches(|c: char| c.is_ascii_digit()))
    };
    text.lines().map(number).collect::<Vec<_>>().join("\n")
}

#[test]
fn an_event_of_each_kind_has_the_fields_of_the_interface_page() {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let kept = lines.clone();
    let emit = Emitter::new(
        Arc::new(move |event: &Event| kept.lock().unwrap().push(serde_json::to_string(event).unwrap())),
        "mercure",
        "clone",
    );
    emit.set_run("mercure--k3f9");
    let step = StepInfo {
        plan: 1,
        index: 2,
        of: 9,
        kind: "storage.snapshot",
        stage: Stage::Duplicate,
        title: "snapshot vg1/mercure as mercure--k3f9-xvda1".into(),
    };
    let check = CheckResult {
        name: "imap".into(),
        kind: "imap".into(),
        verdict: CheckVerdict::Failed,
        detail: "10.0.5.16:143 refused".into(),
        baseline: Some("answered in 3 ms".into()),
        elapsed_s: 0.1,
    };
    let failure =
        ErrorInfo { code: 1, message: "snapshot".into(), causes: vec!["no space".into()], ..ErrorInfo::default() };
    for body in [
        EventBody::VerbStarted { plan: "5f2c91".into(), steps: 9, expected_s: 100.0 },
        EventBody::StepStarted { step: step.clone(), estimate_s: 2.0 },
        EventBody::Progress { step: step.clone(), detail: "copying".into(), percent: Some(50.0) },
        EventBody::StepFinished {
            step: step.clone(),
            outcome: StepOutcome::Failed,
            elapsed_s: 1.42,
            error: Some(failure),
        },
        EventBody::StepUndone { step, outcome: StepOutcome::Undone, elapsed_s: 0.2, error: None },
        EventBody::OutageStarted { expected_s: 95.0 },
        EventBody::OutageEnded { elapsed_s: 97.3 },
        EventBody::Check { check },
        EventBody::Warning { message: "3 files still name 10.0.5.12".into() },
    ] {
        emit.send(body);
    }
    steady(|| assert_snapshot!("json_kinds", lines.lock().unwrap().join("\n")));
}

#[test]
fn errors_say_each_cause_once_and_cannot_drive_the_terminal() {
    let diff = "--- mercure as clone found it\n+++ mercure as it is now\n-\t<memory>\n+\t<memory>\x1b[2J";
    let failure = ErrorInfo {
        code: 7,
        message: "clone mercure".into(),
        causes: vec!["10.0.5.17 answers ARP from 00:16:3e:00:05:11".into(), "clone mercure".into(), diff.into()],
        place: Some("--ip .17".into()),
        help: Some(
            "choose a free address; nothing was changed, and this line is so long that it has to be broken".into(),
        ),
    };
    assert_snapshot!("error", error::render(&failure, Style::default()));
}

#[test]
fn a_page_with_refusals_and_irreversible_steps_says_so() {
    let finding = |id: &str, verdict, detail: &str, remedy: Option<&str>| Finding {
        id: id.into(),
        verdict,
        detail: detail.into(),
        remedy: remedy.map(str::to_owned),
    };
    let mut page = Page::new("Commit mercure--k3f9".into());
    page.rows.push(Row::new("way back", "none: the old system is gone"));
    page.confirm = Some("mercure".into());
    let plan = crate::engine::Plan {
        format: 1,
        run: "mercure--RUN".into(),
        guest: "mercure".into(),
        verb: "commit".into(),
        approved_as: None,
        strategy: "snapshot".into(),
        during: "committing".into(),
        done: "committed".into(),
        failed: "promoted".into(),
        closes: true,
        failure_closes: false,
        undoes: None,
        outages: vec![crate::engine::Outage { guest: "mercure".into(), expected_s: 90.0 }],
        steps: vec![
            crate::engine::PlanStep::new(
                Stage::Tidy,
                crate::steps::domain::Undefine { host: "here".into(), guest: "mercure\x1b[2J".into() },
                130.0,
            )
            .undo(crate::engine::Undo::None),
        ],
    };
    let findings = vec![
        finding("address", Verdict::Refused, "10.0.5.16 answers", Some("choose a free address")),
        finding("space", Verdict::Passed, "8 GiB free", None),
        finding("mail", Verdict::Warning, "smtp is checked after promotion only", None),
    ];
    let proposal = Proposal { plan, page, findings, manners: Manners::default() };
    steady(|| {
        assert_snapshot!("plan_refused", page::plan(&proposal, Look::default()));
        assert_snapshot!("approve_irreversible", page::approval(&proposal, Look { verbose: true, ..Look::default() }));
    });
}

#[test]
fn nothing_is_open() {
    assert_eq!(status::render(&[], Timestamp::now(), Style::default()), "no open runs\n");
}

#[test]
fn events_that_are_left_out_are_counted_in_the_next() {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let (written, full) = (lines.clone(), Arc::new(Mutex::new(false)));
    let now_full = full.clone();
    let sink = json::sink_to(false, move |line, detail| {
        let fits = !(detail && *full.lock().unwrap());
        if fits {
            written.lock().unwrap().push(serde_json::from_str::<serde_json::Value>(line).unwrap());
        }
        fits
    });
    let emit = crate::engine::Emitter::new(sink, "mercure", "promote");
    let command = || crate::engine::EventBody::Command {
        step: None,
        host: "here".into(),
        argv: Vec::new(),
        status: Some(0),
        elapsed_s: 0.1,
    };
    emit.send(command());
    *now_full.lock().unwrap() = true;
    emit.send(command());
    emit.send(command());
    emit.warning("one that must be told".into());
    emit.warning("another".into());
    let lines = lines.lock().unwrap();
    let told: Vec<_> = lines.iter().map(|line| (line["seq"].as_u64(), line["dropped"].as_u64())).collect();
    assert_eq!(told, [(Some(1), None), (Some(4), Some(2)), (Some(5), None)]);
}
