//! `cat`, `df`, `test`, `touch`, `rm`, `rmdir`, `cp`, `mkdir`.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::{Inside, fail, operands, out};
use crate::Result;
use crate::host::Output;
use crate::sim::tree;

impl Inside<'_> {
    pub(super) fn file_command(&mut self, program: &str, args: &[&str]) -> Result<Output> {
        if program == "df" {
            return self.df(args);
        }
        if program == "test" {
            return Ok(self.test(args));
        }
        let paths = operands(args);
        let done = match (program, paths.as_slice()) {
            ("cp", [from, to]) => self.copy(from, to),
            ("cp", _) | (_, []) => return Ok(fail(1, format!("{program}: missing operand"))),
            ("cat", paths) => return Ok(self.cat(paths)),
            (_, paths) => paths.iter().try_for_each(|path| self.change(program, path, args)),
        };
        Ok(done.map_or_else(|error| fail(1, format!("{program}: {error}")), |()| out("")))
    }

    fn cat(&self, paths: &[&str]) -> Output {
        let mut all = Output::default();
        for path in paths {
            match self.made_up(path.as_ref()).map_or_else(|| self.read(path), Ok) {
                Ok(text) => all.stdout.extend(text.into_bytes()),
                Err(error) => {
                    let failed = fail(1, format!("cat: {path}: {}", said(&error)));
                    all.status = 1;
                    all.stderr.extend(failed.stderr);
                }
            }
        }
        all
    }

    /// `find DIR… [-xdev] [-maxdepth N] [( -type f -o -type l )] [( -name *END -o … )] [-printf FORMAT | -print0]`, FORMAT of
    /// `%y`, `%m`, `%p`, `\\0` and `\\n`. Tests of one kind are alternatives, of two kinds both have to hold.
    pub(super) fn find(&self, args: &[&str]) -> Output {
        let starts: Vec<&str> = args.iter().copied().take_while(|word| !word.starts_with(['-', '('])).collect();
        if starts.is_empty() {
            return fail(1, "find: missing directory");
        }
        let (mut depth, mut types, mut ends, mut format) = (u32::MAX, Vec::new(), Vec::new(), "%p\\n");
        let mut words = args[starts.len()..].iter();
        while let Some(word) = words.next() {
            let mut value = || words.next().copied().unwrap_or_default();
            match *word {
                "-maxdepth" => depth = value().parse().unwrap_or(0),
                "-type" => types.push(value()),
                "-name" => match value().strip_prefix('*') {
                    Some(end) if !end.contains(['*', '?', '[']) => ends.push(end),
                    _ => return fail(1, "find: -name: only *END is understood in the simulated world"),
                },
                "-printf" => format = value(),
                "-print0" => format = "%p\\0",
                "(" | ")" | "-o" | "-xdev" => {}
                other => return fail(1, format!("find: {other}: not understood in the simulated world")),
            }
        }
        let mut all = Output::default();
        for start in starts {
            let missing = format!("find: \u{2018}{start}\u{2019}: No such file or directory\n");
            let Some(place) = self.place(start, true).ok().filter(|place| fs::symlink_metadata(place).is_ok()) else {
                all.status = 1;
                all.stderr.extend(missing.into_bytes());
                continue;
            };
            let mut left = vec![(start.trim_end_matches('/').to_owned(), place, depth)];
            while let Some((path, place, depth)) = left.pop() {
                let Ok(meta) = fs::symlink_metadata(&place) else { continue };
                let kind = if meta.is_symlink() {
                    "l"
                } else if meta.is_dir() {
                    "d"
                } else {
                    "f"
                };
                let fits = ends.is_empty() || ends.iter().any(|end| path.ends_with(end));
                if fits && (types.is_empty() || types.contains(&kind)) {
                    let mode = format!("{:o}", meta.permissions().mode() & 0o7777);
                    let line = format.replace("%y", kind).replace("%m", &mode).replace("%p", &path);
                    all.stdout.extend(line.replace("\\0", "\0").replace("\\n", "\n").into_bytes());
                }
                if kind == "d" && depth > 0 {
                    let names = tree::names(&place, "").into_iter().rev();
                    left.extend(names.map(|name| (format!("{path}/{name}"), place.join(&name), depth - 1)));
                }
            }
        }
        all
    }

    fn test(&self, args: &[&str]) -> Output {
        let [what, path] = args else { return fail(2, "test: only -e, -f, -d, -x PATH are understood") };
        let meta = self.place(path, true).and_then(fs::metadata);
        let holds = match *what {
            "-e" | "-x" => meta.is_ok(),
            "-f" => meta.is_ok_and(|meta| meta.is_file()),
            "-d" => meta.is_ok_and(|meta| meta.is_dir()),
            _ => return fail(2, format!("test: {what}: not understood")),
        };
        if holds { out("") } else { fail(1, "") }
    }

    fn change(&self, program: &str, path: &str, args: &[&str]) -> io::Result<()> {
        let parents = args.contains(&"-p");
        let forced = args.iter().any(|word| word.starts_with('-') && word.contains('f'));
        match program {
            "rmdir" => fs::remove_dir(self.place(path, false)?),
            "touch" => {
                let place = self.place(path, true)?;
                fs::OpenOptions::new().create(true).append(true).open(place)?.set_modified(std::time::SystemTime::now())
            }
            "mkdir" if parents => fs::create_dir_all(self.place(path, true)?),
            "mkdir" => fs::create_dir(self.place(path, true)?),
            _ => match fs::remove_file(self.place(path, false)?) {
                Err(error) if forced && error.kind() == io::ErrorKind::NotFound => Ok(()),
                done => done,
            },
        }
    }

    fn copy(&self, from: &str, to: &str) -> io::Result<()> {
        let from = self.place(from, true)?;
        let mut target = self.place(to, true)?;
        if target.is_dir() {
            target.push(from.file_name().unwrap_or_default());
        }
        fs::copy(from, target).map(drop)
    }

    fn df(&self, args: &[&str]) -> Result<Output> {
        let mut text = if args.contains(&"--output=avail") {
            "Avail\n".to_owned()
        } else {
            "Filesystem 1-blocks Used Available Capacity Mounted on\n".to_owned()
        };
        for path in operands(args) {
            if !self.place(path, true).is_ok_and(|place| place.exists()) {
                return Ok(fail(1, format!("df: {path}: No such file or directory")));
            }
            let (volume, _) = self.mounted(Path::new(path));
            let meta = self.world.volume(&volume)?.unwrap_or_default();
            let used = meta.used_bytes + self.world.growth(&volume, &meta);
            let free = self.world.room(&volume, &meta)?;
            let mount = self.parsed.disks.iter().find(|disk| disk.volume == volume).map_or("/", |disk| &disk.name);
            text += &if args.contains(&"--output=avail") {
                format!("{free}\n")
            } else {
                let percent = (used * 100).div_ceil((used + free).max(1));
                format!("/dev/sim/{volume} {} {used} {free} {percent}% {mount}\n", meta.capacity_bytes)
            };
        }
        Ok(out(text))
    }
}

fn said(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "No such file or directory".into(),
        _ => error.to_string(),
    }
}
