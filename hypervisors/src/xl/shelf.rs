//! The files of a dom0, this machine's or another's: what [`super::files`] does here, by fixed scripts for a POSIX shell there.
//!
//! The promises are the same ones: a definition is replaced whole or not at all, keeps mode and owner, and a link stays a link.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::files::{self, Draft, Links};
use crate::host::{Command, Output, blocking, printable_tail};
use crate::{Cause, Error, Host, Result};

/// Where files are.
#[derive(Clone, Debug)]
pub struct Shelf {
    host: Arc<dyn Host>,
}

/// A new text beside the file it shall become. Dropped without being put there, it is removed here; there, by [`Shelf::drop_draft`].
pub struct Drafted {
    /// Where it is.
    pub path: PathBuf,
    here: Option<Draft>,
    target: PathBuf,
    existed: bool,
}

/// Arguments: directory. Names of definitions, each ended by a line feed; a name with one in it is nobody's.
const ALL: &str =
    "cd -- \"$1\" || exit 1; for f in *.cfg; do test -e \"$f\" -o -L \"$f\" || continue; printf '%s\\n' \"$f\"; done";

/// Arguments: path, ending of the draft's name. The text is on standard input. Prints whether it existed, target and draft.
const DRAFT: &str = "umask 077; t=$(readlink -f -- \"$1\") || exit 1; test -n \"$t\" || exit 1; \
    d=$(dirname -- \"$t\"); n=\"$d/.$(basename -- \"$t\").$2\"; e=new; test -e \"$t\" && e=old; \
    rm -f -- \"$n\"; set -C; cat >\"$n\" || { rm -f -- \"$n\"; exit 1; }; \
    test $(($(wc -c <\"$n\"))) -eq \"$3\" || { rm -f -- \"$n\"; echo 'it did not arrive whole' >&2; exit 1; }; \
    if test $e = old; then chown --reference=\"$t\" -- \"$n\" && chmod --reference=\"$t\" -- \"$n\"; \
    else chown --reference=\"$d\" -- \"$n\" && chmod 600 -- \"$n\"; fi || { rm -f -- \"$n\"; exit 1; }; \
    sync -- \"$n\"; printf '%s\\n%s\\n%s\\n' $e \"$t\" \"$n\"";

/// Arguments: draft, target.
const PUT: &str = "mv -fT -- \"$1\" \"$2\" && sync -- \"$(dirname -- \"$2\")\"";

/// Arguments: path. Status 98: a link.
const REMOVE: &str = "test -L \"$1\" && exit 98; rm -- \"$1\" && sync -- \"$(dirname -- \"$1\")\"";

/// Arguments: directory, definition. A line `KIND NAME` for each entry: `link` leads to the definition, `copy` is a file with its name.
const LINKS: &str = "test -d \"$1\" || exit 0; w=$(readlink -f -- \"$2\"); b=$(basename -- \"$2\"); cd -- \"$1\" || exit 1; \
    for f in * .*; do if test -L \"$f\"; then test \"$(readlink -f -- \"$f\")\" = \"$w\" && printf 'link %s\\n' \"$f\"; \
    elif test -f \"$f\" && test \"$f\" = \"$b\"; then printf 'copy %s\\n' \"$f\"; fi; done; exit 0";

/// Arguments: directory, target, link.
const LINK: &str = "mkdir -p -- \"$1\" && ln -s -- \"$2\" \"$3\" && sync -- \"$1\"";

/// Arguments: old and new name.
const RENAME: &str = "mv -nT -- \"$1\" \"$2\" && ! test -e \"$1\" -o -L \"$1\" && sync -- \"$(dirname -- \"$2\")\"";

impl Shelf {
    /// Of a machine.
    pub fn new(host: &Arc<dyn Host>) -> Self {
        Self { host: Arc::clone(host) }
    }

    async fn ask(&self, script: &str, words: &[&Path], more: &[&str], stdin: Option<&str>) -> Result<Output> {
        let mut argv = vec!["sh", "-c", script, "sh"];
        for word in words {
            argv.push(word.to_str().ok_or_else(|| Error::refused("name a file there", "its path is not UTF-8"))?);
        }
        argv.extend(more);
        let command = Command::new(argv);
        let command = match stdin {
            Some(text) => command.stdin(text.as_bytes().to_vec()),
            None => command,
        };
        self.host.run(&command).await
    }

    async fn told(&self, doing: String, script: &str, words: &[&Path]) -> Result<String> {
        let output =
            self.ask(script, words, &[], None).await.map_err(|error| Error { doing: doing.clone(), ..error })?;
        checked(doing, output)
    }

    /// Every definition's file of a directory, in name order.
    pub async fn all(&self, directory: &Path) -> Result<Vec<PathBuf>> {
        let doing = format!("list {}", directory.display());
        if self.host.is_local() {
            let directory = directory.to_owned();
            return blocking(doing, move |_| files::all(&directory)).await;
        }
        let text = self.told(doing, ALL, &[directory]).await?;
        let mut found: Vec<PathBuf> = text.lines().map(|name| directory.join(name)).collect();
        found.sort();
        Ok(found)
    }

    /// A definition's text; `None` if there is none.
    pub async fn read(&self, path: &Path) -> Result<Option<String>> {
        let doing = format!("read {}", path.display());
        if self.host.is_local() {
            let path = path.to_owned();
            return blocking(doing, move |_| files::read(&path)).await;
        }
        let bytes = self.host.read_file(path, files::LIMIT).await?;
        bytes.map(|bytes| files::text(doing, bytes)).transpose()
    }

    /// Writes a text beside the file it shall become.
    pub async fn draft(&self, path: &Path, text: &str) -> Result<Drafted> {
        let doing = format!("write {}", path.display());
        if self.host.is_local() {
            let (file, text) = (path.to_owned(), text.to_owned());
            let draft = blocking(doing, move |_| Draft::write(&file, &text)).await?;
            let path = draft.path.clone();
            return Ok(Drafted { path, here: Some(draft), target: PathBuf::new(), existed: false });
        }
        let ending = format!("{}{}", std::process::id(), files::ASIDE);
        let output = self.ask(DRAFT, &[path], &[&ending, &text.len().to_string()], Some(text)).await?;
        let said = checked(doing.clone(), output)?;
        let mut lines = said.lines();
        let (Some(existed), Some(target), Some(draft)) = (lines.next(), lines.next(), lines.next()) else {
            return Err(Error::new(doing, Cause::Malformed("the answer was not understood".into())));
        };
        Ok(Drafted { path: draft.into(), here: None, target: target.into(), existed: existed == "old" })
    }

    /// Puts a draft in the place of its file. Returns whether there was one.
    pub async fn put(&self, draft: Drafted) -> Result<bool> {
        if let Some(here) = draft.here {
            return blocking("replace a definition".to_owned(), move |_| here.put()).await;
        }
        self.told(format!("replace {}", draft.target.display()), PUT, &[&draft.path, &draft.target]).await?;
        Ok(draft.existed)
    }

    /// Removes a draft that is not to be.
    pub async fn drop_draft(&self, draft: Drafted) {
        if draft.here.is_none() {
            let _ = self.told("remove a draft".into(), "rm -f -- \"$1\"", &[&draft.path]).await;
        }
    }

    /// Removes a definition's file.
    pub async fn remove(&self, path: &Path) -> Result<()> {
        let doing = format!("remove {}", path.display());
        if self.host.is_local() {
            let path = path.to_owned();
            return blocking(doing, move |_| files::remove(&path)).await;
        }
        let output = self.ask(REMOVE, &[path], &[], None).await?;
        if output.status == 98 {
            return Err(Error::refused(doing, "it is a link, and somebody made it one").help("remove it by hand"));
        }
        checked(doing, output).map(drop)
    }

    /// Looks for a definition in the directory of those that start with the host.
    pub async fn links(&self, auto: &Path, definition: &Path) -> Result<Links> {
        let doing = format!("look into {}", auto.display());
        if self.host.is_local() {
            let (auto, definition) = (auto.to_owned(), definition.to_owned());
            return blocking(doing, move |_| files::links(&auto, &definition)).await;
        }
        let text = self.told(doing, LINKS, &[auto, definition]).await?;
        let mut links = Links::default();
        for (kind, name) in text.lines().filter_map(|line| line.split_once(' ')) {
            match (kind, name.starts_with('.')) {
                ("copy", false) => links.copies.push(auto.join(name)),
                ("link", false) => links.on.push(auto.join(name)),
                ("link", true) if name.ends_with(files::ASIDE) => links.off.push(auto.join(name)),
                _ => {}
            }
        }
        links.on.sort();
        links.off.sort();
        Ok(links)
    }

    /// Switches a link off, so that it can come back as it was.
    pub async fn put_aside(&self, link: &Path) -> Result<()> {
        self.rename(format!("switch {} off", link.display()), link, files::aside(link), files::put_aside).await
    }

    /// Switches a link on again.
    pub async fn put_back(&self, link: &Path) -> Result<()> {
        self.rename(format!("switch {} on", link.display()), link, files::back(link), files::put_back).await
    }

    async fn rename(&self, doing: String, from: &Path, to: PathBuf, here: fn(&Path) -> Result<()>) -> Result<()> {
        if self.host.is_local() {
            let from = from.to_owned();
            return blocking(doing, move |_| here(&from)).await;
        }
        self.told(doing, RENAME, &[from, &to]).await.map(drop)
    }

    /// Links a definition into the directory of those that start with the host.
    pub async fn link(&self, auto: &Path, definition: &Path) -> Result<()> {
        let link = auto.join(definition.file_name().unwrap_or_default());
        let doing = format!("link {}", link.display());
        if self.host.is_local() {
            let (auto, definition) = (auto.to_owned(), definition.to_owned());
            return blocking(doing, move |_| files::link(&auto, &definition)).await;
        }
        self.told(doing, LINK, &[auto, definition, &link]).await.map(drop)
    }

    /// Whether these links are the one that [`Shelf::link`] makes.
    pub async fn is_ours(&self, links: &[PathBuf], auto: &Path, definition: &Path) -> Result<bool> {
        if self.host.is_local() {
            return Ok(files::is_ours(links, auto, definition));
        }
        let ours = auto.join(definition.file_name().unwrap_or_default());
        if links != [ours.as_path()] {
            return Ok(false);
        }
        let target = self.told(format!("read {}", ours.display()), "readlink -- \"$1\"", &[&ours]).await?;
        Ok(Path::new(target.trim_end_matches('\n')) == definition)
    }

    /// Removes a link.
    pub async fn unlink(&self, link: &Path) -> Result<()> {
        let doing = format!("remove {}", link.display());
        if self.host.is_local() {
            let link = link.to_owned();
            return blocking(doing, move |_| files::unlink(&link)).await;
        }
        let script = "rm -- \"$1\" && sync -- \"$(dirname -- \"$1\")\"";
        self.told(doing, script, &[link]).await.map(drop)
    }

    /// Whether there is something of that name, whatever it is.
    pub async fn exists(&self, path: &Path) -> Result<bool> {
        self.test(path, "-e", Path::exists).await
    }

    /// Whether there is a file of that name.
    pub async fn is_file(&self, path: &Path) -> Result<bool> {
        self.test(path, "-f", Path::is_file).await
    }

    async fn test(&self, path: &Path, option: &str, here: fn(&Path) -> bool) -> Result<bool> {
        if self.host.is_local() {
            return Ok(here(path));
        }
        let output = self.ask("test \"$2\" \"$1\"", &[path], &[option], None).await?;
        match output.status {
            0 => Ok(true),
            1 => Ok(false),
            _ => checked(format!("look at {}", path.display()), output).map(|_| false),
        }
    }

    /// The path behind links; as it is, if that cannot be told.
    pub async fn real(&self, path: &Path) -> PathBuf {
        if self.host.is_local() {
            return std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        }
        let told = self.told(format!("follow {}", path.display()), "readlink -f -- \"$1\"", &[path]).await;
        told.ok().map(|text| PathBuf::from(text.trim_end_matches('\n'))).unwrap_or_else(|| path.to_owned())
    }
}

fn checked(doing: String, output: Output) -> Result<String> {
    if output.status == 0 {
        return Ok(output.text());
    }
    let stderr = printable_tail(&output.stderr, 2);
    Err(Error::new(doing, Cause::Command { program: "sh".to_owned(), status: output.status, stderr }))
}
