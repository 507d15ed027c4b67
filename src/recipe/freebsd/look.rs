//! What is to be known of the host, of the source and of the jail's tree before a world is installed. Nothing is changed.
//!
//! Three scripts ask for all of it; each answers with sections, a line `== NAME` and then what was found. Lines of the jail's files
//! are let through only where they are what is looked for, so that none can pass for the name of a section.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hypervisors::host::{Command, printable};
use hypervisors::{Cause, Error, Host, Result};
use serde::{Deserialize, Serialize};

use super::elf::{self, Foreign};
use super::{Method, Release, Source, Wanted, world};

/// Prints what the host is and has.
pub(super) const HOST: &str = "echo '== kernel'; uname -K 2>/dev/null; echo '== running'; uname -r; \
    echo '== installed'; freebsd-version -k 2>/dev/null; echo '== world'; freebsd-version -u 2>/dev/null; \
    echo '== arch'; uname -p; echo '== cpus'; sysctl -n hw.ncpu 2>/dev/null; \
    echo '== securelevel'; sysctl -n kern.securelevel 2>/dev/null; \
    echo '== compat'; sysctl -N kern.features 2>/dev/null | grep compat_freebsd; \
    echo '== tools'; for t in make etcupdate mergemaster freebsd-update chflags pwd_mkdb jail; do \
    command -v $t >/dev/null 2>&1 && echo $t; done; \
    echo '== conf'; cat /etc/src.conf /etc/src-env.conf /etc/make.conf 2>/dev/null | grep '^ *WITHOUT_'; exit 0";

/// The first release with freebsd-version(1); what was built of an older one is told by its osreldate.h.
const VERSIONED: u32 = 10;

/// Arguments: source. Prints its version, where its objects are, and what a finished buildworld left there: the version it was
/// made of, by name and by number, and programs that are built early and late.
pub(super) const SOURCE: &str = "s=$1; echo '== newvers'; grep -E '^(REVISION|BRANCH)=' \"$s/sys/conf/newvers.sh\" 2>/dev/null; \
    echo '== param'; grep -E '^#define[[:space:]]+__FreeBSD_version' \"$s/sys/sys/param.h\" 2>/dev/null; \
    test -f \"$s/Makefile\" || exit 0; o=$(make -C \"$s\" -V OBJTOP 2>/dev/null); \
    test -n \"$o\" || o=$(make -C \"$s\" -V .OBJDIR 2>/dev/null); test -n \"$o\" || exit 0; echo '== objects'; echo \"$o\"; \
    echo '== built'; grep '^USERLAND_VERSION=' \"$o/bin/freebsd-version/freebsd-version\" 2>/dev/null; \
    echo '== number'; grep -E '^#define[[:space:]]+__FreeBSD_version' \"$o/include/osreldate.h\" 2>/dev/null; \
    echo '== missing'; for f in bin/freebsd-version/freebsd-version bin/sh/sh usr.bin/yes/yes; do \
    test -e \"$o/$f\" || echo $f; done; exit 0";

/// Arguments: the jail's root. `real DIR`: the directory lies where its name says, not behind a link that leads out of the tree.
pub(super) const TREE: &str = "r=$(cd -P \"$1\" && pwd -P) || exit 1; plain() { test -f \"$1\" && test -L \"$1\" && return 1; \
    test -f \"$1\"; }; \
    echo '== version'; plain \"$r/bin/freebsd-version\" && grep '^USERLAND_VERSION=' \"$r/bin/freebsd-version\"; \
    echo '== osreldate'; plain \"$r/usr/include/osreldate.h\" && \
    grep -E '^#define[[:space:]]+__FreeBSD_version' \"$r/usr/include/osreldate.h\"; \
    echo '== outside'; for d in bin sbin lib libexec rescue root boot tmp etc etc/defaults etc/mail etc/mtree etc/pam.d \
    etc/periodic etc/rc.d etc/security etc/ssl usr usr/bin usr/games usr/include usr/lib usr/lib32 usr/libdata usr/libexec \
    usr/local usr/sbin usr/share usr/share/man usr/share/misc usr/tests var var/at var/cron var/db var/db/etcupdate \
    var/db/etcupdate/current var/db/etcupdate/conflicts var/empty var/log var/mail var/msgs var/run var/spool var/tmp var/yp; do \
    test -d \"$r/$d\" || { test -L \"$r/$d\" && echo \"$d\"; continue; }; p=$(cd -P \"$r/$d\" 2>/dev/null && pwd -P); \
    case $p in \"$r\"/*) ;; *) echo \"$d\";; esac; done; \
    echo '== base'; for d in current old; do test -d \"$r/var/db/etcupdate/$d\" && test -L \"$r/var/db/etcupdate/$d\" || \
    { test -d \"$r/var/db/etcupdate/$d\" && echo $d; }; done; \
    echo '== pkg'; plain \"$r/usr/local/sbin/pkg-static\" && test -f \"$r/var/db/pkg/local.sqlite\" && echo pkg; \
    ls \"$r/var/db/pkg\" 2>/dev/null | grep -c '.-[0-9]' | sed 's/^/old /'; \
    echo '== flags'; find \"$r\" -xdev '(' -path \"$r/usr/local\" -o -path \"$r/usr/home\" -o -path \"$r/home\" -o -path \"$r/usr/ports\" \
    -o -path \"$r/usr/src\" ')' -prune -o -flags +schg -print 2>/dev/null | head -n 40 | sed \"s|^$r/|/|\" | grep '^/'; exit 0";

/// The sections of an answer.
fn sections(text: &str) -> BTreeMap<String, Vec<String>> {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut name = String::new();
    for line in text.lines() {
        match line.strip_prefix("== ") {
            Some(next) => {
                next.clone_into(&mut name);
                found.entry(name.clone()).or_default();
            }
            None => found.entry(name.clone()).or_default().push(line.to_owned()),
        }
    }
    found
}

struct Answer(BTreeMap<String, Vec<String>>);

impl Answer {
    async fn of(
        host: &dyn Host,
        doing: &str,
        script: &str,
        arguments: &[&str],
        env: &[(String, String)],
    ) -> Result<Self> {
        let argv = ["sh", "-c", script, "sh"].into_iter().chain(arguments.iter().copied());
        let mut command = Command::new(argv).timeout(Duration::from_secs(900));
        command.env = env.to_vec();
        let output = host.run(&command).await?.checked(doing, &command)?;
        if output.truncated {
            return Err(Error::new(doing, Cause::Malformed("the answer is too long".into())));
        }
        Ok(Self(sections(&output.text())))
    }
    fn lines(&self, name: &str) -> &[String] {
        self.0.get(name).map_or(&[], Vec::as_slice)
    }
    fn text(&self, name: &str) -> String {
        self.lines(name).join("\n")
    }
    /// The first line, fit to be shown.
    fn line(&self, name: &str) -> String {
        self.lines(name).first().map(|line| printable(line.trim())).unwrap_or_default()
    }
    fn number<T: std::str::FromStr>(&self, name: &str) -> Option<T> {
        self.line(name).parse().ok()
    }
    fn shown(&self, name: &str) -> Vec<String> {
        self.lines(name).iter().map(|line| printable(line.trim())).collect()
    }
}

/// The jail host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostFacts {
    /// `uname -K` of the running kernel.
    pub kernel: Option<u32>,
    /// Its name: `uname -r`.
    pub running: String,
    /// The kernel that the next boot takes.
    pub installed: String,
    /// The host's base system.
    pub world: String,
    /// `amd64`.
    pub arch: String,
    /// Processors.
    pub cpus: u32,
    /// kern.securelevel.
    pub securelevel: Option<i32>,
    /// What old binaries the kernel runs: `compat_freebsd4`, `compat_freebsd_32bit`.
    pub compat: Vec<String>,
    /// Tools it has, of those that are used.
    pub tools: Vec<String>,
    /// Options of its src.conf and make.conf that leave parts out.
    pub without: Vec<String>,
}

impl HostFacts {
    /// Whether it has a tool.
    pub fn has(&self, tool: &str) -> bool {
        self.tools.iter().any(|known| known == tool)
    }
}

/// A source tree.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceFacts {
    /// What it is the source of; `None`: no source of FreeBSD.
    pub release: Option<Release>,
    /// Where its objects are.
    pub objects: Option<PathBuf>,
    /// What the objects were built from.
    pub built: Option<String>,
    /// What a finished buildworld would have left there.
    pub missing: Vec<String>,
}

impl SourceFacts {
    /// Whether a finished buildworld of this very source is there.
    pub fn complete(&self) -> bool {
        self.objects.is_some()
            && self.missing.is_empty()
            && self.built.is_some()
            && self.built.as_deref() == self.release.as_ref().map(|release| release.name.as_str())
    }
}

/// The jail's tree.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreeFacts {
    /// What is installed in it.
    pub release: Option<Release>,
    /// Directories of the base system that are links which lead out of it.
    pub outside: Vec<String>,
    /// It has a tree to compare configuration files with.
    pub base: bool,
    /// It has pkg(8) and its database.
    pub pkg: bool,
    /// Packages of the old kind (`/var/db/pkg/NAME-VERSION/`).
    pub old_packages: u32,
    /// Files that cannot be changed (`schg`), at most 40.
    pub flags: Vec<String>,
}

/// All that a plan rests on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// The jail host.
    pub host: HostFacts,
    /// The source to install from.
    pub source: SourceFacts,
    /// The jail's tree.
    pub tree: TreeFacts,
    /// Binaries of third parties built for older releases.
    pub foreign: Foreign,
    /// [`Wanted::base`] is a source, of this release; else it is a tarball, or there is none.
    pub base_source: Option<Release>,
    /// [`Wanted::base`] is a file.
    pub base_file: bool,
}

impl Facts {
    /// What the jail is upgraded to.
    pub fn target(&self, method: &Method) -> Option<Release> {
        match method {
            Method::Source(_) => self.source.release.clone(),
            Method::Binary(Some(name)) => Release::named(name),
            Method::Binary(None) => Release::named(unpatched(&self.host.world)),
        }
    }
}

/// `13.2-RELEASE` of `13.2-RELEASE-p4`: freebsd-update(8) is told the release, and brings its newest patches.
fn unpatched(name: &str) -> &str {
    name.rsplit_once("-p").filter(|(_, patch)| patch.bytes().all(|b| b.is_ascii_digit())).map_or(name, |(name, _)| name)
}

/// Looks at a source and at what was built of it.
pub async fn source(host: &dyn Host, source: &Source) -> Result<SourceFacts> {
    let src = source.src.display().to_string();
    let answer = Answer::of(host, "look at the source", SOURCE, &[&src], &source.env()).await?;
    let release = Release::of_source(&answer.text("newvers"), &answer.text("param"));
    let mut built = Release::of_tree(&answer.text("built"), "").map(|built| built.name);
    let mut missing = answer.shown("missing");
    if let Some(release) = release.as_ref().filter(|release| release.major() < VERSIONED) {
        missing.retain(|path| path != "bin/freebsd-version/freebsd-version");
        built = Release::of_tree("", &answer.text("number"))
            .map(|built| if built.osrel == release.osrel { release.name.clone() } else { built.name });
    }
    let objects = answer.lines("objects").first().map(PathBuf::from).filter(|path| path.is_absolute());
    Ok(SourceFacts { release, objects, built, missing })
}

/// Looks at a jail's tree.
pub async fn tree(host: &dyn Host, root: &Path) -> Result<TreeFacts> {
    let root = root.display().to_string();
    let answer = Answer::of(host, "look at the jail's tree", TREE, &[&root], &[]).await?;
    let packages = answer.lines("pkg");
    Ok(TreeFacts {
        release: Release::of_tree(&answer.text("version"), &answer.text("osreldate")),
        outside: answer.shown("outside"),
        base: !answer.lines("base").is_empty(),
        pkg: packages.iter().any(|line| line == "pkg"),
        old_packages: packages.iter().find_map(|line| line.strip_prefix("old ")?.trim().parse().ok()).unwrap_or(0),
        flags: answer.shown("flags"),
    })
}

async fn machine(host: &dyn Host) -> Result<HostFacts> {
    let answer = Answer::of(host, "look at the jail host", HOST, &[], &[]).await?;
    let compat = answer.shown("compat").into_iter().map(|name| name.trim_start_matches("kern.features.").to_owned());
    Ok(HostFacts {
        kernel: answer.number("kernel"),
        running: answer.line("running"),
        installed: answer.line("installed"),
        world: answer.line("world"),
        arch: answer.line("arch"),
        cpus: answer.number("cpus").unwrap_or(1),
        securelevel: answer.number("securelevel"),
        compat: compat.collect(),
        tools: answer.shown("tools"),
        without: world::without(&answer.text("conf")),
    })
}

/// Whether a path can be handed to make and to scripts: absolute, of plain characters, without `..`.
pub fn plain(path: &Path) -> bool {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-+".contains(&byte);
    let text = path.as_os_str().as_encoded_bytes();
    text.len() > 1
        && text[0] == b'/'
        && text.iter().all(|byte| known(*byte))
        && !text.split(|b| *b == b'/').any(|part| part == b"..")
}

/// Looks at everything. `root`: the tree of the stopped jail.
pub async fn look(host: &dyn Host, root: &Path, wanted: &Wanted) -> Result<Facts> {
    let none = Source { src: PathBuf::new(), obj: None };
    let tried = match &wanted.method {
        Method::Source(source) => source,
        Method::Binary(_) => &none,
    };
    let (machine, source, tree) = tokio::try_join!(
        machine(host),
        async { if tried == &none { Ok(SourceFacts::default()) } else { source(host, tried).await } },
        tree(host, root),
    )?;
    let mut facts = Facts { host: machine, source, tree, ..Facts::default() };
    if let Some(target) = facts.target(&wanted.method) {
        facts.foreign = elf::look(host, root, target.major()).await?;
    }
    if let Some(base) = &wanted.base {
        let old = Source { src: base.clone(), obj: None };
        facts.base_source = self::source(host, &old).await?.release;
        let text = base.display().to_string();
        facts.base_file =
            host.run(&Command::new(["test", "-s", &text])).await?.status == 0 && facts.base_source.is_none();
    }
    Ok(facts)
}
