//! Every parser on what is recorded, on what is nearly that, and on what is much of it: what `make fuzz` does for hours,
//! for seconds and always the same. The targets are those of `upgradectl::fuzz`, the seeds those of
//! `integration/fuzz/seeds.txt`; inputs that once broke a parser are among them.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use upgradectl::fuzz::targets;

/// Bytes of an input that was made by mutation.
const MOST: usize = 6 << 10;
/// How long a parser may take on 64 KiB, in a debug build on a busy machine. What is quadratic takes far longer.
const PATIENCE: Duration = Duration::from_secs(20);

/// Seeds by target.
fn seeds() -> BTreeMap<String, Vec<Vec<u8>>> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut seeds: BTreeMap<String, Vec<Vec<u8>>> = BTreeMap::new();
    for line in std::fs::read_to_string(top.join("integration/fuzz/seeds.txt")).unwrap().lines() {
        if let Some((target, path)) = line.split_once(' ').filter(|(target, _)| *target != "#") {
            seeds.entry(target.to_owned()).or_default().push(std::fs::read(top.join(path.trim())).unwrap());
        }
    }
    for directory in std::fs::read_dir(top.join("integration/fuzz/seeds")).unwrap() {
        let directory = directory.unwrap().path();
        let mut files: Vec<PathBuf> = std::fs::read_dir(&directory).unwrap().map(|file| file.unwrap().path()).collect();
        files.sort();
        let target = directory.file_name().unwrap().to_str().unwrap().to_owned();
        seeds.entry(target).or_default().extend(files.iter().map(|file| std::fs::read(file).unwrap()));
    }
    seeds
}

/// An empty directory, emptied again for each input.
struct Scratch(TempDir);

impl Scratch {
    fn new() -> Self {
        let place =
            ["/dev/shm", "/tmp"].iter().find_map(|place| TempDir::with_prefix_in("upgradectl-parsers-", place).ok());
        Self(place.unwrap())
    }

    /// Runs a target and says how long it took; the input, if it breaks on it.
    fn run(&self, target: &str, parse: fn(&[u8], &Path), input: &[u8]) -> Result<Duration, String> {
        let root = self.0.path().join("root");
        std::fs::create_dir(&root).unwrap();
        let begun = Instant::now();
        let done = catch_unwind(AssertUnwindSafe(|| parse(input, &root)));
        let took = begun.elapsed();
        std::fs::remove_dir_all(&root).unwrap();
        let shown = &input[..input.len().min(2000)];
        let broken = |_| format!("{target} breaks on ({} bytes)\n{}\n", input.len(), shown.escape_ascii());
        done.map(|()| took).map_err(broken)
    }
}

/// Numbers that only look random (xorshift): every run tries the same.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
    fn below(&mut self, most: usize) -> usize {
        usize::try_from(self.next() % (most.max(1) as u64)).unwrap()
    }
    fn one<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }
}

/// What breaks parsers, whatever they are for.
const HOSTILE: [&[u8]; 30] = [
    b"\0",
    b"\xff",
    b"\xc3",
    "\u{202e}".as_bytes(),
    "\u{9b}2J".as_bytes(),
    b"\x1b[2J",
    b"\r\n",
    b"\n\n",
    b"\\\n",
    b"\\",
    b"\"",
    b"'",
    b"$(touch x)",
    b"`x`",
    b";",
    b"../..",
    b"-rf",
    b"%",
    b"{",
    b"}",
    b"[[",
    b"]",
    b"<!--",
    b"&#0;",
    b"99999999999999999999",
    b"-1",
    b"10.0.5.12",
    b"10.0.5.13",
    b"2001:db8::12",
    b"# upgradectl: ",
];

/// A seed, changed in a few places.
fn mutated(seeds: &[Vec<u8>], dice: &mut Dice) -> Vec<u8> {
    let mut input = dice.one(seeds).clone();
    if input.len() > MOST {
        let from = dice.below(input.len() - MOST);
        input = input[from..from + MOST].to_vec();
    }
    for _ in 0..1 + dice.below(4) {
        let at = dice.below(input.len() + 1);
        let end = (at + 1 + dice.below(24)).min(input.len());
        match dice.below(8) {
            0 if at < input.len() => input[at] ^= 1 << dice.below(8),
            1 if at < input.len() => input[at] = u8::try_from(dice.below(256)).unwrap(),
            2 => drop(input.drain(at..end)),
            3 => drop(input.splice(at..at, input[at..end].to_vec())),
            4 | 5 => drop(input.splice(at..at, dice.one(&HOSTILE).to_vec())),
            6 => {
                // A line of another seed, or of this one, in the middle.
                let lines: Vec<&[u8]> = dice.one(seeds).split_inclusive(|byte| *byte == b'\n').collect();
                let line = if lines.is_empty() { Vec::new() } else { dice.one(&lines).to_vec() };
                drop(input.splice(at..at, line));
            }
            _ => input.truncate(at),
        }
    }
    input.truncate(MOST);
    input
}

#[test]
fn every_parser_has_seeds_and_every_seed_a_parser() {
    let seeds = seeds();
    let names: Vec<&str> = targets().map(|target| target.name).collect();
    for name in &names {
        assert!(seeds.contains_key(*name), "{name} has no seed in integration/fuzz/seeds.txt or seeds/{name}");
    }
    for target in seeds.keys() {
        assert!(names.contains(&target.as_str()), "there is no parser {target}");
    }
}

/// Runs some of the targets on their seeds and on so many mutations.
fn try_all(of: impl Fn(&str) -> bool, mutations: usize) {
    let (seeds, scratch, mut broken) = (seeds(), Scratch::new(), Vec::new());
    for target in targets().filter(|target| of(target.name)) {
        let seeds = &seeds[target.name];
        let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
        let mutations = (0..mutations).map(|_| mutated(seeds, &mut dice));
        // One input for each parser that breaks.
        let first =
            seeds.iter().cloned().chain(mutations).find_map(|input| scratch.run(target.name, target.run, &input).err());
        broken.extend(first);
    }
    assert!(broken.is_empty(), "{}", broken.concat());
}

/// Those that write files take longer.
fn has_files(target: &str) -> bool {
    target.starts_with("guest_") && target != "guest_facts" || target == "postfix_main_cf"
}

#[test]
fn texts_are_read_or_refused() {
    try_all(|target| !has_files(target), 1200);
}

#[test]
fn files_of_guests_are_rewritten_and_given_back_or_refused() {
    try_all(has_files, 200);
}

#[test]
fn nothing_takes_long_on_much() {
    let (seeds, scratch, mut broken) = (seeds(), Scratch::new(), Vec::new());
    for target in targets() {
        let mut stretched: Vec<Vec<u8>> = b" \n[{(<\"'\\".iter().map(|byte| vec![*byte; 64 << 10]).collect();
        for seed in &seeds[target.name] {
            stretched.push(seed.iter().copied().cycle().take(if seed.is_empty() { 0 } else { 64 << 10 }).collect());
        }
        // One line of it again and again, numbered where it has a number, so that none is like another.
        let longest = seeds[target.name].iter().flat_map(|seed| seed.split_inclusive(|byte| *byte == b'\n'));
        if let Some(line) = longest.max_by_key(|line| line.len().min(120)) {
            let numbered = (0..u32::MAX).flat_map(|number| {
                let word = number.to_string();
                let mut told = false;
                line.iter()
                    .flat_map(move |byte| {
                        if byte.is_ascii_digit() && !std::mem::replace(&mut told, true) {
                            word.clone().into_bytes()
                        } else {
                            vec![*byte]
                        }
                    })
                    .collect::<Vec<_>>()
            });
            stretched.push(numbered.take(64 << 10).collect());
        }
        for input in stretched {
            match scratch.run(target.name, target.run, &input) {
                Ok(took) if took < PATIENCE => {}
                Ok(took) => {
                    let shown = &input[..input.len().min(80)];
                    broken.push(format!("{} takes {took:?} on 64 KiB of\n{}\n", target.name, shown.escape_ascii()));
                }
                Err(why) => broken.push(why),
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.concat());
}
