//! Production's definition, as it was found, as this run wrote it, and as it is now: which of them a verb stores next.

use hypervisors::{Definition, DefinitionEdit, DiskEdit, HostKernel, Mark, Role};

use super::back::Past;
use super::error::{Failure, exit};
use super::held::Held;
use super::invocation::Options;
use super::origin;
use crate::engine::Op;
use crate::inventory::Strategy;
use crate::steps::{Action, Side as Decision, sha256};

impl Held<'_> {
    /// What a way back by a merge rests on: the definition that clone found comes back, unless someone else changed the one
    /// that stands there now.
    pub(super) async fn before_merging(&self, pasts: &[Past], options: &Options) -> Result<origin::Now, Failure> {
        let name = &self.spec.name;
        let captured = pasts.iter().find_map(|past| {
            past.plan.steps.iter().zip(&past.histories).find_map(|(step, past)| match &step.op {
                Op::Do(Action::Autostart(autostart)) if autostart.guest == *name => {
                    past.found.as_ref()?["was"].as_bool()
                }
                _ => None,
            })
        });
        let autostart = match captured {
            Some(was) => was,
            None => self.hypervisor.autostart(name).await?,
        };
        let Some(current) = self.hypervisor.definition(name).await? else {
            return Err(Failure::new(exit::REFUSED, format!("abort {name}"))
                .cause("production is not defined any more")
                .help("define it again; upgradectl log shows its definition's place in the journal"));
        };
        let found = self.found_definition()?;
        let ours = self.written_definitions(pasts)?;
        let known = |text: &String| text.trim_end() == current.text.trim_end();
        let replaces = sha256(current.text.as_bytes());
        let text = if known(&found) || ours.iter().any(known) || options.decision == Some(Decision::Ours) {
            found
        } else if options.decision == Some(Decision::Theirs) {
            let disks = self.record.copies().chain(self.record.swaps());
            let disks = disks.map(|(disk, old, _)| (disk.name.clone(), DiskEdit::Source(old.clone()))).collect();
            let edit = DefinitionEdit { disks, mark: Some(None), ..DefinitionEdit::default() };
            self.hypervisor.derive(&current, &edit)?.text
        } else {
            let diff = similar::TextDiff::from_lines(ours.last().unwrap_or(&found), &current.text)
                .unified_diff()
                .header(&format!("{name} as upgradectl wrote it"), &format!("{name} as it is now"))
                .to_string();
            return Err(Failure::new(exit::UNDECIDED, format!("abort {name}"))
                .cause(format!("the definition of {name} was changed by someone else"))
                .cause(diff)
                .help("--ours brings back the definition as clone found it, --theirs keeps the change"));
        };
        let same = text.trim_end() == current.text.trim_end();
        let definition = (!same).then(|| (Definition { name: name.clone(), text }, replaces));
        Ok(origin::Now { definition, autostart })
    }

    /// Production's definitions as this run's plans stored them, oldest first.
    fn written_definitions(&self, pasts: &[Past]) -> Result<Vec<String>, Failure> {
        let mut written = Vec::new();
        for (step, past) in pasts.iter().flat_map(|past| past.plan.steps.iter().zip(&past.histories)) {
            let (Op::Do(Action::Define(define)), true) = (&step.op, past.found.is_some()) else { continue };
            if define.definition.name == self.spec.name {
                written.push(match past.done.as_ref().and_then(|done| done["done"]["data"]["stored"].as_str()) {
                    Some(sha) => String::from_utf8_lossy(&self.journal.blob(sha)?).into_owned(),
                    None => define.definition.text.clone(),
                });
            }
        }
        Ok(written)
    }

    /// The definition production stands by before promotion: as clone found it or, if clone moved it, as clone wrote it.
    fn expected_definition(&self) -> Result<String, Failure> {
        let cloning: Vec<Past> = self.pasts()?.into_iter().filter(|past| past.plan.verb == "clone").collect();
        Ok(match self.written_definitions(&cloning)?.pop() {
            Some(text) => text,
            None => self.found_definition()?,
        })
    }

    /// Production's definition as clone found it, byte for byte.
    fn found_definition(&self) -> Result<String, Failure> {
        Ok(String::from_utf8_lossy(&self.journal.blob(&self.record.definition)?).into_owned())
    }

    /// The kernel, initrd and command line that the clone was given by hand, where they lie on the host: they were verified
    /// with it, and go with it.
    pub(super) async fn new_kernel(&self) -> Result<Option<HostKernel>, Failure> {
        let kernel =
            async |guest: &str| Ok::<_, Failure>(self.hypervisor.facts(guest).await?.and_then(|facts| facts.kernel));
        let (clone, production) = (kernel(&self.record.clone.name).await?, kernel(&self.spec.name).await?);
        Ok(clone.filter(|kernel| production.is_some_and(|production| production != *kernel)))
    }

    /// The definition of the promoted guest, and the SHA-256 of the one it replaces.
    pub(super) async fn promoted_definition(&self, options: &Options) -> Result<(Definition, String), Failure> {
        let name = &self.spec.name;
        let mut definition = self.hypervisor.definition(name).await?.ok_or_else(|| {
            Failure::new(exit::REFUSED, format!("promote {name}"))
                .cause("the original is not defined any more")
                .help("define it again; upgradectl log shows its definition's place in the journal")
        })?;
        let replaces = sha256(definition.text.as_bytes());
        let expected = self.expected_definition()?;
        let mut theirs = false;
        if definition.text.trim_end() != expected.trim_end() {
            match options.decision {
                Some(Decision::Theirs) => theirs = true,
                Some(Decision::Ours) => definition.text = expected,
                None => {
                    let diff = similar::TextDiff::from_lines(&expected, &definition.text)
                        .unified_diff()
                        .header(&format!("{name} as clone left it"), &format!("{name} as it is now"))
                        .to_string();
                    return Err(Failure::new(exit::UNDECIDED, format!("promote {name}"))
                        .cause("its definition was changed since it was cloned")
                        .cause(diff)
                        .help("--theirs promotes with the change, --ours without it"));
                }
            }
        }
        let origin = self.record.strategy == Strategy::Origin;
        let kernel = self.new_kernel().await?;
        if origin && !theirs {
            definition.text = self.found_definition()?;
            let edit = DefinitionEdit { kernel, ..DefinitionEdit::default() };
            let same = edit == DefinitionEdit::default();
            return Ok((if same { definition } else { self.hypervisor.derive(&definition, &edit)? }, replaces));
        }
        let mark = Mark { run: self.run.id.clone(), role: Role::Production };
        let mut edit = DefinitionEdit { mark: Some((!origin).then_some(mark)), kernel, ..DefinitionEdit::default() };
        let clones = self.record.sides().map(|(disk, _, clone)| (disk.name.clone(), DiskEdit::Source(clone.clone())));
        edit.disks.extend(clones);
        Ok((self.hypervisor.redefined(&definition, &edit).await?, replaces))
    }
}
