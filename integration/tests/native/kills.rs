//! The controller is ended by `kill -9` at moments drawn by lot, in every verb, on a real guest; then a way out is gone that
//! is drawn, too, and may be killed in turn.
//!
//! `$UPGRADECTL_KILLS` says how many there are, `$UPGRADECTL_SEED` repeats the drawing of a run (not its moments: those hang
//! on the machine's).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use fastrand::Rng;
use integration::crash::{self, End};
use serde_json::Value;

use super::picture::{Picture, autostart, definition, subvolumes};
use super::trial::Trial;

/// How many kills, unless it is said.
const KILLS: usize = 36;

/// Within how much of an event it is ended, in milliseconds: most steps take less.
const WITHIN: u64 = 400;

fn asked<T: std::str::FromStr>(name: &str) -> Option<T> {
    std::env::var(name).ok()?.parse().ok()
}

/// What is done, and what has to be there.
struct Lot<'a> {
    trial: &'a Trial,
    rng: Rng,
    /// Events of each verb when nothing ended it.
    lengths: BTreeMap<String, usize>,
    /// How many runs were committed; each left a file in /root.
    generation: usize,
    before: Picture,
    volumes: usize,
    kills: BTreeMap<String, usize>,
}

/// Where a guest's root is, by its definition.
fn root(trial: &Trial) -> Result<PathBuf> {
    let text = definition(&trial.lab, "tiny")?;
    let dir = text.split_once("<source dir='").and_then(|(_, rest)| rest.split_once('\''));
    Ok(dir.context("a root in the definition")?.0.into())
}

impl<'a> Lot<'a> {
    fn new(trial: &'a Trial, seed: u64) -> Result<Self> {
        let before = Picture::of(&trial.lab, "tiny", &root(trial)?)?;
        let volumes = subvolumes(&trial.lab)?.len();
        let (rng, lengths, kills) = (Rng::with_seed(seed), BTreeMap::new(), BTreeMap::new());
        let lot = Lot { trial, rng, lengths, generation: 0, before, volumes, kills };
        lot.declare()?;
        Ok(lot)
    }

    /// The upgrade of each run leaves a file of its own.
    fn declare(&self) -> Result<()> {
        let number = self.generation;
        self.trial.declare(&format!(
            r#"upgrade = {{ recipe = "script", run = ["sh", "-c", "echo >> /root/{number}; sleep 0.5"] }}"#
        ))
    }

    fn struck(&self) -> usize {
        self.kills.values().sum()
    }

    /// Runs a command to its end.
    fn whole(&mut self, line: &str) -> Result<i32> {
        let (code, events) = self.trial.begin(line)?.end()?;
        eprintln!("{line}: {code}");
        if code == 0 {
            self.lengths.insert(first(line).to_owned(), events.len());
        }
        Ok(code)
    }

    /// Begins a command and ends it at some moment; its exit code, if it was over before.
    fn kill(&mut self, line: &str) -> Result<Option<i32>> {
        let verb = first(line);
        let events = self.lengths.get(verb).copied().unwrap_or(20);
        let (pass, wait) = (self.rng.usize(0..events), Duration::from_millis(self.rng.u64(0..WITHIN)));
        let mut going = self.trial.begin(line)?;
        going.pass(pass)?;
        std::thread::sleep(wait);
        let over = going.kill_or_end()?.map(|(code, _)| code);
        match over {
            Some(code) => eprintln!("{line}: {code}, too late after {pass} events"),
            None => {
                *self.kills.entry(verb.to_owned()).or_default() += 1;
                eprintln!("{line}: killed {wait:?} after {pass} events");
            }
        }
        Ok(over)
    }

    /// What comes next from a state; `last`: nothing new is begun.
    fn next(&mut self, state: &str, last: bool) -> &'static str {
        let give_up = last || self.rng.u8(0..6) == 0;
        match state {
            "" => "clone tiny",
            "promoted" if last => "abort tiny --yes",
            "promoted" => ["rollback tiny --yes", "commit tiny --yes", "abort tiny --yes"][self.rng.usize(0..3)],
            "cloned" if !give_up => "upgrade tiny",
            "upgraded" if !give_up => "verify tiny",
            "verified" if !give_up => "promote tiny --yes",
            "cloned" | "upgraded" | "verified" => "abort tiny --yes",
            // Left half done.
            "promoting" => ["resume tiny --yes", "abort tiny --yes", "rollback tiny --yes", "resume --interrupted"]
                [self.rng.usize(0..4)],
            "cloning" | "upgrading" | "verifying" => ["resume tiny", "abort tiny --yes"][self.rng.usize(0..2)],
            _ => "resume tiny --yes",
        }
    }

    /// A state in which nothing is under way: all that has to be there is, and nothing else.
    fn check(&mut self, state: &str) -> Result<()> {
        let (lab, address) = (&self.trial.lab, self.trial.address());
        let files = |count: usize| (0..count).map(|number| number.to_string()).collect::<Vec<_>>().join("\n");
        let production = files(self.generation + usize::from(state == "promoted"));
        let found = lab.ssh(&address, ["ls", "/root"])?;
        ensure!(found == production, "production has {found:?}, not {production:?}");
        ensure!(autostart(lab, "tiny")?, "autostart of production is off");
        let domains: Vec<String> = lab.domains()?.into_keys().collect();
        let guests = if matches!(state, "" | "promoted") { 1 } else { 2 };
        ensure!(domains.len() == guests, "{domains:?}");
        if state.is_empty() {
            let volumes = subvolumes(lab)?;
            ensure!(volumes.len() == self.volumes, "{volumes:?}");
            ensure!(!definition(lab, "tiny")?.contains("urn:upgradectl"), "a mark is left");
        }
        if state != "promoted" {
            self.before.still(lab, "tiny")?;
        }
        Ok(())
    }

    /// The state now; what has to be there, if nothing is under way.
    fn look(&mut self, committed: bool) -> Result<String> {
        let run = self.trial.run()?;
        let state = run.as_ref().and_then(|run| run["state"].as_str()).unwrap_or_default().to_owned();
        let resting = ["", "cloned", "upgraded", "verified", "promoted"].contains(&state.as_str());
        if committed && state.is_empty() {
            self.generation += 1;
            self.before = Picture::of(&self.trial.lab, "tiny", &root(self.trial)?)?;
            self.declare()?;
        }
        let under_way = run.is_some_and(|run| run["interrupted"] == Value::Bool(true));
        if resting && !under_way {
            self.check(&state)?;
        }
        Ok(state)
    }

    /// Until so many kills, and then to the end of the last run.
    fn play(&mut self, kills: usize) -> Result<()> {
        let mut committing = false;
        let mut state = String::new();
        loop {
            let last = self.struck() >= kills;
            if last && state.is_empty() {
                return Ok(());
            }
            let line = self.next(&state, last);
            let fresh = !state.ends_with("ing") && state != "rolling_back";
            committing |= first(line) == "commit";
            // Every verb; of the ways out of an interruption one in three.
            let over = if !last && self.lengths.contains_key(first(line)) && (fresh || self.rng.u8(0..3) == 0) {
                self.kill(line)?
            } else {
                Some(self.whole(line)?)
            };
            let refused = line.starts_with("abort") && state == "committing" || line.starts_with("rollback");
            match over {
                None | Some(0) => {}
                Some(9) if refused => {}
                Some(code) => {
                    let told = self.trial.says("log tiny", 0).map(|said| said.to_string());
                    anyhow::bail!("{line} from {state:?} ended with {code}\n{}", told.unwrap_or_default())
                }
            }
            state = self.look(committing)?;
            if state.is_empty() || state == "promoted" {
                committing = false;
            }
        }
    }
}

fn first(line: &str) -> &str {
    line.split(' ').next().unwrap_or_default()
}

#[test]
fn controllers_killed_by_lot_lose_nothing() -> Result<()> {
    let seed = asked("UPGRADECTL_SEED").unwrap_or_else(|| Rng::new().u64(..));
    let kills = asked("UPGRADECTL_KILLS").unwrap_or(KILLS);
    eprintln!("UPGRADECTL_SEED={seed}");
    let trial = Trial::tiny()?;
    let mut lot = Lot::new(&trial, seed)?;
    let ended = lot.play(kills);
    eprintln!("kills by verb: {:?}", lot.kills);
    let survived = lot.struck() - usize::from(ended.is_err());
    crash::count_ends(env!("CARGO_TARGET_TMPDIR"), End::Kills, "native", lot.struck(), survived)?;
    ended
}
