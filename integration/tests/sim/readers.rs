//! Whoever reads what a verb says cannot hold the verb up: a pipe that nobody reads, a terminal held by Ctrl-S. The verb
//! goes to its end and gives its lease back; what it said is still there for a reader that comes late.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use hypervisors::sim::How;
use integration::cli::Said;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::pty::openpty;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, pipe2};

use crate::bench::Bench;

const PATIENCE: Duration = Duration::from_secs(15);
/// Holds a terminal, and lets it go.
const CTRL_S: &[u8] = b"\x13";
const CTRL_Q: &[u8] = b"\x11";

/// Starts the product with its results in a pipe of one page; the reading end.
fn into_a_pipe(bench: &Bench, args: &[&str]) -> (Child, File) {
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC).unwrap();
    assert_eq!(fcntl(&writer, FcntlArg::F_SETPIPE_SZ(4096)).unwrap(), 4096);
    let child = bench.ctl.command(args.iter().copied()).stdout(writer).stderr(Stdio::null()).spawn().unwrap();
    (child, reader.into())
}

/// Starts the product on a terminal that is held; the terminal's other end.
fn on_a_held_terminal(bench: &Bench, args: &[&str]) -> (Child, File) {
    let pty = openpty(None, None).unwrap();
    let mut master = File::from(pty.master);
    master.write_all(CTRL_S).unwrap();
    let side = |fd: &OwnedFd| fd.try_clone().unwrap();
    let mut command = bench.ctl.command(args.iter().copied());
    command.env("TERM", "xterm").stdin(side(&pty.slave)).stdout(side(&pty.slave)).stderr(side(&pty.slave));
    (command.spawn().unwrap(), master)
}

/// Waits for this state with nobody at work on the run; the one who said so still waits for its reader.
#[track_caller]
fn comes_to(bench: &Bench, child: &mut Child, state: &str) {
    let begun = Instant::now();
    loop {
        let run = bench.run().unwrap();
        if run["state"] == state && run["holder"].is_null() {
            break;
        }
        if begun.elapsed() > PATIENCE {
            child.kill().unwrap();
            panic!("its reader holds it up: {run}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(child.try_wait().unwrap().is_none(), "all it said was taken: this test shows nothing");
}

#[track_caller]
fn ends_soon(child: &mut Child) -> i32 {
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code().unwrap_or(-1);
        }
        if begun.elapsed() > Duration::from_secs(3) {
            child.kill().unwrap();
            panic!("it does not end");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn interrupt(child: &Child) {
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGINT).unwrap();
}

/// All that comes until the other side is closed.
fn all(mut reader: File) -> String {
    let mut bytes = Vec::new();
    // A terminal ends with an error, not with an end.
    let _ = reader.read_to_end(&mut bytes);
    String::from_utf8(bytes).unwrap()
}

#[track_caller]
fn original_and_clone_have_changed_places(bench: &Bench) {
    let power = std::fs::read_to_string(bench.path("world/power/mercure.json")).unwrap();
    assert!(power.contains("\"power\": \"on\""), "production is down: {power}");
    bench.no_conflicts("a reader that does not read");
}

#[test]
fn nobody_reads_the_events_of_a_promotion() {
    let bench = Bench::new();
    bench.good_way_to("verified");
    let (mut child, reader) = into_a_pipe(&bench, &["--json", "promote", "mercure", "--yes"]);
    comes_to(&bench, &mut child, "promoted");
    original_and_clone_have_changed_places(&bench);

    let stdout = all(reader);
    let code = ends_soon(&mut child);
    let said = Said { line: "promote".into(), code, stdout, stderr: String::new(), took: Duration::ZERO };
    assert_eq!(said.code, 0, "{said}");
    let events = said.events().unwrap();
    let count = |kind: &str| events.iter().filter(|event| event["event"] == kind).count();
    assert_eq!((count("outage_started"), count("outage_ended")), (1, 1), "{said}");
    assert_eq!(count("step_started"), count("step_finished"), "{said}");
    let mut next = 1;
    for event in &events {
        next += event["dropped"].as_u64().unwrap_or(0);
        assert_eq!(event["seq"].as_u64(), Some(next), "a line is missing and was not told, or is out of order: {said}");
        next += 1;
    }
}

#[test]
fn a_held_terminal_does_not_hold_a_promotion() {
    let bench = Bench::new();
    bench.good_way_to("verified");
    let (mut child, mut master) = on_a_held_terminal(&bench, &["-v", "promote", "mercure", "--yes"]);
    comes_to(&bench, &mut child, "promoted");
    original_and_clone_have_changed_places(&bench);
    master.write_all(CTRL_Q).unwrap();
    let said = all(master);
    assert_eq!(ends_soon(&mut child), 0, "{said}");
    let order = ["Promote mercure--", "mercure is down now", "mercure is up again", "mercure is promoted. Outage"];
    let found: Vec<Option<usize>> = order.iter().map(|words| said.find(words)).collect();
    assert!(found.iter().all(Option::is_some) && found.is_sorted(), "{found:?} in {said}");
}

#[test]
fn a_reader_that_never_comes_is_left_by_ctrl_c() {
    let bench = Bench::new();
    bench.good_way_to("verified");
    let (mut child, _reader) = into_a_pipe(&bench, &["--json", "promote", "mercure", "--yes"]);
    comes_to(&bench, &mut child, "promoted");
    interrupt(&child);
    assert_eq!(ends_soon(&mut child), 0, "the verb had ended well");
}

#[test]
fn ctrl_c_twice_on_a_held_terminal_ends_at_once() {
    let bench = Bench::new();
    bench.fault("storage.snapshot", "", 1, How::DelayMs(30_000));
    let (mut child, _master) = on_a_held_terminal(&bench, &["-v", "clone", "mercure"]);
    let begun = Instant::now();
    while !bench.sim().faults().unwrap().is_empty() {
        if begun.elapsed() > PATIENCE {
            child.kill().unwrap();
            panic!("it does not come to the snapshot");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    interrupt(&child);
    std::thread::sleep(Duration::from_millis(200));
    interrupt(&child);
    assert_eq!(ends_soon(&mut child), 8);
    bench.no_faults();
    bench.good("abort", "aborted");
}

#[test]
fn a_query_prints_everything_however_slow_its_reader() {
    let bench = Bench::new();
    bench.good_way_to("promoted");
    let (mut child, mut reader) = into_a_pipe(&bench, &["--json", "log", "mercure"]);
    std::thread::sleep(Duration::from_millis(500));
    assert!(child.try_wait().unwrap().is_none(), "all it said was taken: this test shows nothing");
    let mut first = [0; 100];
    reader.read_exact(&mut first).unwrap();
    std::thread::sleep(Duration::from_millis(200));
    let text = String::from_utf8(first.to_vec()).unwrap() + &all(reader);
    let log: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(log["state"], "promoted");
    assert_eq!(ends_soon(&mut child), 0);
}
