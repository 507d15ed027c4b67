//! What the tests of the ring share: the product in a lab of its own, and a verb that can be watched and killed.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use integration::cli::{Said, Upgradectl};
use integration::command::run;
use integration::lab::guest::{self, Guest, TINY};
use integration::lab::{Lab, Standing};
use integration::verb::Verb;
use serde_json::Value;

use super::picture::definition;

/// How long a boot may take.
const BOOT: Duration = Duration::from_secs(60);

/// An upgrade that takes no time and leaves a trace.
pub const QUICK: &str = r#"upgrade = { recipe = "script", run = ["touch", "/root/upgraded"] }"#;

/// The product in lab 1 with guest `tiny`, or others. Everything goes when it is dropped.
#[derive(Debug)]
pub struct Trial {
    pub lab: Standing,
    pub product: Upgradectl,
}

impl Trial {
    /// A lab with these guests; the inventory is the lab's own.
    pub fn with(guests: &[Guest]) -> Result<Trial> {
        let lab = Lab::numbered(1)?.standing(guests)?;
        let product = Upgradectl::in_lab(&lab)?;
        Ok(Trial { lab, product })
    }

    /// A lab with `tiny`, whose upgrade is [`QUICK`].
    pub fn tiny() -> Result<Trial> {
        let trial = Trial::with(&[TINY])?;
        trial.declare(QUICK)?;
        Ok(trial)
    }

    /// Writes the inventory anew: `tiny` with these further lines.
    pub fn declare(&self, lines: &str) -> Result<()> {
        Ok(fs::write(self.lab.inventory(), self.inventory("", lines))?)
    }

    /// An inventory of `tiny`: `ssh` adds keys to its ssh table (and takes precedence), `lines` to its own.
    pub fn inventory(&self, ssh: &str, lines: &str) -> String {
        let key = self.lab.key();
        let ssh = if ssh.is_empty() { format!("user = \"root\", key = \"{}\"", key.display()) } else { ssh.to_owned() };
        format!(
            "version = 1\n\n[defaults]\nssh = {{ {ssh} }}\n\n[hosts]\nhere = {{ hypervisor = \"libvirt\", uri = \"{}\" }}\n\n[guests.tiny]\nhost = \"here\"\nclone = {{ ip = [\".24\"] }}\n{lines}\n",
            self.lab.uri()
        )
    }

    /// Types a command; it must end with this exit code.
    pub fn says(&self, line: &str, code: i32) -> Result<Said> {
        self.product.run(line.split(' '))?.expect(code)
    }

    /// Types commands that all end well.
    pub fn all(&self, lines: &[&str]) -> Result<()> {
        lines.iter().try_for_each(|line| self.says(line, 0).map(drop))
    }

    /// The address of `tiny`.
    pub fn address(&self) -> String {
        self.lab.address(TINY.host)
    }

    /// The address its clones get.
    pub fn clone_address(&self) -> String {
        self.lab.address(TINY.host + 4)
    }

    /// The root of `tiny` as the host sees it.
    pub fn root(&self) -> PathBuf {
        TINY.root(&self.lab)
    }

    /// Starts `tiny`, which is off, and waits until it has booted.
    pub fn start(&self) -> Result<()> {
        guest::start(&self.lab, TINY.name)?;
        guest::wait_for_ssh(&self.lab, &self.address(), BOOT)?;
        guest::wait_settled(&self.lab, &self.address(), BOOT)
    }

    /// Gives `tiny` another definition.
    pub fn redefine(&self, edit: impl FnOnce(String) -> String) -> Result<()> {
        let (old, file) = (definition(&self.lab, TINY.name)?, self.lab.path("tiny.xml"));
        let new = edit(old.clone());
        ensure!(new != old, "nothing was edited in {old}");
        fs::write(&file, new)?;
        self.lab.virsh(["define", file.to_str().context("the lab's path is not text")?]).map(drop)
    }

    /// Moves `tiny` to another directory, which is to be a plain one, and starts it there.
    pub fn move_to(&self, root: &Path) -> Result<()> {
        let (old, new) = (self.root().display().to_string(), root.display().to_string());
        self.lab.virsh(["destroy", TINY.name])?;
        run("cp").args(["--archive", "--reflink=auto", "-T", &old, &new]).output()?;
        self.redefine(|text| text.replace(&format!("'{old}'"), &format!("'{new}'")))?;
        self.start()
    }

    /// What `status --json` says of the one open run; `None` if there is none.
    pub fn run(&self) -> Result<Option<Value>> {
        let status = self.says("status --json", 0)?.json()?;
        let runs = status["runs"].as_array().context("status has no runs")?;
        ensure!(runs.len() <= 1, "{runs:?}");
        Ok(runs.first().cloned())
    }

    /// The id of the open run, which its clone is named by.
    pub fn name(&self) -> Result<String> {
        self.run()?.and_then(|run| run["run"].as_str().map(str::to_owned)).context("no run is open")
    }

    /// The state of the one open run; empty if there is none.
    pub fn state(&self) -> Result<String> {
        Ok(self.run()?.and_then(|run| run["state"].as_str().map(str::to_owned)).unwrap_or_default())
    }

    /// Begins a verb, to be watched by its events.
    pub fn begin(&self, line: &str) -> Result<Verb> {
        Verb::begin(line, self.product.command(line.split(' ')).arg("--json"))
    }
}
