//! `restore` with FreeBSD's command line. Linux's restore does the work; what is said, and that `-r` ends with 0 whatever
//! happened, is FreeBSD's.

use std::fs::File;
use std::io::{IsTerminal, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::filesystems;
use super::restore_said::{self as said, Seen};
use super::stream::{RECORD, Stream};
use crate::host::Host;
use crate::{faults, say};

const REAL: &str = "/usr/sbin/restore";

const USAGE: &str = "usage: restore -i [-dhmNuvy] [-b blocksize] [-f file | -P pipecommand] [-s fileno]
       restore -R [-dNuvy] [-b blocksize] [-f file | -P pipecommand] [-s fileno]
       restore -r [-dNuvy] [-b blocksize] [-f file | -P pipecommand] [-s fileno]
       restore -t [-dhNuvy] [-b blocksize] [-f file | -P pipecommand]
               [-s fileno] [file ...]
       restore -x [-dhmNuvy] [-b blocksize] [-f file | -P pipecommand]
               [-s fileno] [file ...]
";

/// What is asked for.
#[derive(Default)]
struct Asked {
    mode: char,
    yes: bool,
    letters: String,
    file: Option<String>,
    names: Vec<String>,
}

/// The program.
pub fn main(host: &Host, arguments: &[String]) -> u8 {
    let asked = match asked(arguments) {
        Ok(asked) => asked,
        Err(status) => return status,
    };
    let Some(file) = asked.file.clone() else { return say::not_played("a tape (no -f)") };
    let mut input: Box<dyn Read + Send> = if file == "-" {
        Box::new(std::io::stdin())
    } else {
        match File::open(host.path(&file)) {
            Ok(file) => Box::new(file),
            Err(wrong) => return say::wrong(&format!("{file}: {}", say::reason(&wrong))),
        }
    };
    if file == "-" && !std::io::stdin().is_terminal() && File::open("/dev/tty").is_err() {
        say::err("cannot open /dev/tty: Device not configured\n");
    }
    let mut first = vec![0; RECORD];
    let mut length = 0;
    while let Ok(more @ 1..) = input.read(&mut first[length..]) {
        length += more;
    }
    let mut stream = Stream::default();
    stream.pass(&first[..length]);
    if length < RECORD {
        say::err("Tape read error on first record\n");
        return 1;
    }
    if stream.header.is_none() {
        say::err("Tape is not a dump tape\n");
        return 1;
    }
    match asked.mode {
        'r' => whole(host, &asked, &first, input, stream),
        't' => listed(host, &asked, &first, input),
        mode => say::not_played(&format!("-{mode}")),
    }
}

/// `-r`: all of it into the current directory.
fn whole(host: &Host, asked: &Asked, first: &[u8], mut input: Box<dyn Read + Send>, mut stream: Stream) -> u8 {
    let Some(header) = stream.header.clone() else { return 1 };
    let directory = std::env::var("TMPDIR").unwrap_or_else(|_| "/tmp/".to_owned());
    let shown = format!("{directory}/rstdir{}", header.date);
    let database = host.path(&shown);
    // Its name is the dump's date alone: a second restore of the same dump trips over the first, and takes its file with it.
    if File::options().write(true).create_new(true).open(&database).is_err() {
        say::err(&format!("restore: {shown}: cannot create directory database: File exists\n"));
        let _ = std::fs::remove_file(&database);
        return 1;
    }
    let work = database.with_extension(format!("{}", std::process::id()));
    let _ = std::fs::create_dir_all(&work);
    let status = if faults::lies() {
        let _ = std::io::copy(&mut input, &mut std::io::sink());
        0
    } else {
        let found: Vec<PathBuf> = entries();
        let (said, code) = extract(&work, first, &mut *input, &mut stream);
        let seen = Seen { said, stream: &stream, yes: asked.yes };
        if code > 1 {
            say::err(&format!("{}jailhost: {REAL} ended with {code}\n", seen.said));
            return 70;
        }
        if database.exists() {
            say::err(&said::in_freebsds_words(&seen, &header.label));
        } else {
            // The directory database went while it was needed.
            for entry in entries().into_iter().filter(|entry| !found.contains(entry)) {
                let _ = std::fs::remove_dir_all(&entry).or_else(|_| std::fs::remove_file(&entry));
            }
            say::err(&said::without_a_database(&seen));
        }
        0
    };
    let _ = std::fs::remove_file(&database);
    let _ = std::fs::remove_dir_all(&work);
    status
}

fn entries() -> Vec<PathBuf> {
    std::fs::read_dir(".").into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

/// Bytes of what the real one says that are looked at.
const WORDS: u64 = 1 << 20;

/// Runs the real one on the stream, to the stream's end even if the real one gave up before: FreeBSD's goes on.
fn extract(work: &std::path::Path, first: &[u8], input: &mut dyn Read, stream: &mut Stream) -> (String, i32) {
    let mut real = Command::new(REAL);
    real.arg0("restore")
        .args(["-r", "-y", "-f", "-"])
        .env("TMPDIR", work)
        .env("TZ", "UTC")
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = match real.spawn() {
        Ok(child) => child,
        Err(wrong) => return (format!("jailhost: {REAL}: {wrong}\n"), 70),
    };
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let said = std::thread::scope(|scope| {
        let words = stderr.map(|mut stderr| {
            scope.spawn(move || {
                let mut text = Vec::new();
                let _ = (&mut stderr).take(WORDS).read_to_end(&mut text);
                let _ = std::io::copy(&mut stderr, &mut std::io::sink());
                String::from_utf8_lossy(&text).into_owned()
            })
        });
        if let Some(mut stdout) = stdout {
            scope.spawn(move || std::io::copy(&mut stdout, &mut std::io::sink()));
        }
        let mut stdin = stdin.filter(|stdin| (&*stdin).write_all(first).is_ok());
        let mut block = vec![0; 1 << 18];
        while let Ok(length @ 1..) = input.read(&mut block) {
            stream.pass(&block[..length]);
            if stdin.as_mut().is_some_and(|stdin| stdin.write_all(&block[..length]).is_err()) {
                stdin = None;
            }
        }
        drop(stdin);
        if !stream.has_end {
            ended_soon(&mut child);
        }
        words.and_then(|words| words.join().ok()).unwrap_or_default()
    });
    let code = child.wait().ok().and_then(|status| status.code()).unwrap_or(-1);
    (said, code)
}

/// Linux's restore can read for ever, and complain of it, behind the end of a stream that was cut; what is to be said of such a one is known without it.
fn ended_soon(child: &mut Child) {
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(3) {
        if !matches!(child.try_wait(), Ok(None)) {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let _ = child.kill();
}

/// `-t`: what is in it, or whether some names are.
fn listed(host: &Host, asked: &Asked, first: &[u8], mut input: Box<dyn Read + Send>) -> u8 {
    let mut real = Command::new(REAL);
    real.arg0("restore").args(["-t", "-y", "-f", "-"]).args(&asked.names).env("TZ", "UTC").env("LC_ALL", "C");
    real.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let Ok(mut child) = real.spawn() else {
        say::err(&format!("jailhost: {REAL} cannot be run\n"));
        return 70;
    };
    let stdin = child.stdin.take();
    let first = first.to_vec();
    let feed = std::thread::spawn(move || {
        if let Some(mut stdin) = stdin
            && stdin.write_all(&first).is_ok()
        {
            let _ = std::io::copy(&mut input, &mut stdin);
        }
    });
    let Ok(output) = child.wait_with_output() else { return 1 };
    let _ = feed.join();
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    for line in stdout.lines().chain(stderr.lines()).filter(|line| line.starts_with("Level ")) {
        say::err(&format!("{}\n", pretended(host, line)));
    }
    say::err("Label: none\n");
    for line in stderr.lines().filter(|line| line.ends_with("is not on the tape")) {
        say::err(&format!("{line}\n"));
    }
    for line in stdout.lines().filter(|line| !line.starts_with("Level ") && !line.starts_with("Label:")) {
        say::out(&format!("{line}\n"));
    }
    0
}

/// `Level 0 dump of /tmp/x on vm:/dev/loop2` by the names of the pretended host.
fn pretended(host: &Host, line: &str) -> String {
    let words: Vec<&str> = line.split(" on ").collect();
    let ([front, .., end], Some(level)) = (words.as_slice(), line.split_whitespace().nth(1)) else {
        return line.to_owned();
    };
    let device = end.split_once(':').map_or(*end, |(_, device)| device);
    match filesystems::all(host).into_iter().find(|of| of.behind.as_deref() == Some(device)) {
        Some(of) => format!("Level {level} dump of {} on {}:{}", of.mountpoint, host.persona.hostname, of.device),
        None => format!("{front} on {}:{device}", host.persona.hostname),
    }
}

fn asked(arguments: &[String]) -> Result<Asked, u8> {
    let mut asked = Asked::default();
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let Some(letters) = argument.strip_prefix('-').filter(|letters| !letters.is_empty()) else {
            asked.names.push(argument.clone());
            continue;
        };
        let mut letters = letters.chars();
        while let Some(letter) = letters.next() {
            match letter {
                'r' | 'R' | 't' | 'x' | 'i' if asked.mode != '\0' => {
                    say::err(&format!("restore: {letter} and {} are mutually exclusive\n", asked.mode));
                    return Err(1);
                }
                'r' | 'R' | 't' | 'x' | 'i' => asked.mode = letter,
                'y' => asked.yes = true,
                'd' | 'h' | 'm' | 'u' | 'v' => asked.letters.push(letter),
                'N' => return Err(say::not_played("-N")),
                'f' | 'b' | 's' | 'P' => {
                    let own: String = letters.by_ref().collect();
                    let value = if own.is_empty() { rest.next().cloned() } else { Some(own) };
                    let Some(value) = value else {
                        say::err(&format!("restore: option requires an argument -- {letter}\n{USAGE}"));
                        return Err(1);
                    };
                    match letter {
                        'f' => asked.file = Some(value),
                        'b' => {}
                        letter => return Err(say::not_played(&format!("-{letter}"))),
                    }
                }
                letter => return Err(say::illegal(letter, USAGE)),
            }
        }
    }
    if asked.mode == '\0' {
        say::err("restore: none of i, R, r, t or x options specified\n");
        return Err(1);
    }
    if asked.mode == 'r' && !asked.names.is_empty() {
        say::err(USAGE);
        return Err(1);
    }
    Ok(asked)
}
