//! `cat`, `df`, `test`, `touch`, `rm`, `cp`, `mkdir`.

use std::fs;
use std::io;
use std::path::Path;

use super::{Inside, fail, operands, out};
use crate::Result;
use crate::host::Output;

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
            let text = match *path {
                "/proc/sys/kernel/random/boot_id" => Ok(format!("{}\n", self.runtime.boot_id)),
                path => self.read(path),
            };
            match text {
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
            let free = meta.capacity_bytes.saturating_sub(used).min(self.world.pool_free()?);
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
