//! A fenced clone reaches its controller, its resolvers, its mirrors and what is allowed; the promoted guest reaches all.

use std::fs;
use std::net::SocketAddr;

use hypervisors::sim::How;

use crate::bench::Bench;

const FENCED: &str = "clone = { network = \"fenced\", allow = [\"10.0.5.20:5432\", \"db.example\"],";
/// A mail relay, say: nobody allowed it.
const ELSEWHERE: &str = "198.51.100.25:25";

fn fenced() -> Bench {
    let bench = Bench::new();
    bench.edit_inventory("clone = {", FENCED);
    bench.sim().configure(|config| config.names.extend([("db.example".into(), [10, 0, 6, 7].into())])).unwrap();
    bench
}

/// Whether a program of root connects out of a guest.
fn reaches(bench: &Bench, guest: &str, to: &str) -> bool {
    bench.sim().lets_out(guest, 0, to.parse::<SocketAddr>().unwrap()).unwrap()
}

#[track_caller]
fn shut_in(bench: &Bench, clone: &str) {
    assert!(!reaches(bench, clone, ELSEWHERE), "the clone reaches what nobody allowed");
    assert!(!reaches(bench, clone, "10.0.5.20:25") && !reaches(bench, clone, "10.0.5.12:25"), "on its own link too");
    assert!(!reaches(bench, clone, "[2001:db8::25]:25"), "by IPv6 too");
    for open in ["10.0.5.20:5432", "10.0.6.7:1", "10.0.5.1:53", "10.0.5.1:40022"] {
        assert!(reaches(bench, clone, open), "{open}");
    }
}

#[test]
fn the_fence_stands_from_the_first_boot_to_promotion_and_again_after_rollback() {
    let bench = fenced();
    bench.good("clone", "cloned");
    let run = bench.run_id();
    shut_in(&bench, &run);
    assert!(reaches(&bench, "mercure", ELSEWHERE), "the original is not fenced");

    // The upgrade downloads, and reboots.
    bench.good("upgrade", "upgraded");
    shut_in(&bench, &run);
    bench.good("verify", "verified");
    bench.good("promote", "promoted");
    assert!(reaches(&bench, "mercure", ELSEWHERE), "production is fenced");
    assert!(!bench.volume(&format!("{run}-root"), "etc/upgradectl").exists(), "the fence's files stay");
    bench.good("rollback", "upgraded");
    shut_in(&bench, &run);
    assert!(reaches(&bench, "mercure", ELSEWHERE));
    bench.good("verify", "verified");
    bench.good("abort", "aborted");
    bench.no_conflicts("fenced");
}

#[test]
fn a_verification_shuts_the_ways_that_are_allowed_otherwise() {
    let bench = fenced();
    bench.edit_inventory("clone =", "quarantine = { while_verifying = [\"postfix\"] }\nclone =");
    bench.good_way_to("upgraded");
    let run = bench.run_id();
    // The controller dies when the checks have begun: what was shut stays shut until somebody takes it back.
    bench.fault("guest.run", "systemctl start postfix", 1, How::KillAfter);
    assert_ne!(bench.verb("verify").code, 0);
    assert!(!reaches(&bench, &run, "10.0.5.20:5432") && !reaches(&bench, &run, ELSEWHERE));
    assert!(reaches(&bench, &run, "10.0.5.1:40022"));
    let units = || std::fs::read_to_string(bench.path("world/power").join(format!("{run}.json"))).unwrap();
    assert!(units().contains("postfix.service"));
    let said = bench.ctl_run(&["--json", "resume", "mercure"]);
    assert_eq!(said.code, 0, "{said}");
    shut_in(&bench, &run);
    let left = bench.volume(&format!("{run}-root"), "etc/systemd/system/postfix.service.d");
    assert!(!left.exists(), "its condition stays");
}

#[test]
fn a_clone_whose_fence_does_not_stand_is_not_kept() {
    let bench = fenced();
    bench.fault("guest.run", "ip -4 rule show", 1, How::Fail);
    let said = bench.verb("clone");
    assert_eq!((said.code, bench.state().as_str()), (1, "none"), "{said}");
}

#[test]
fn what_cannot_be_fenced_or_allowed_is_refused() {
    let bench = Bench::new();
    bench.edit_inventory("clone = {", "clone = { network = \"fenced\", allow = [\"10.0.5\"],");
    let said = bench.verb("clone");
    assert!(said.code == 2 && said.stdout.contains("clone.allow[0]"), "{said}");

    // No user _apt: the mirror is not reached unless it is allowed.
    let bench = fenced();
    let passwd = bench.volume("mercure", "etc/passwd");
    fs::write(&passwd, "root:x:0:0:root:/root:/bin/bash\nprobe:x:1000:1000::/home/probe:/bin/bash\n").unwrap();
    let said = bench.good("clone", "cloned");
    assert!(said.stdout.contains("_apt"), "{said}");
    let said = bench.verb("upgrade");
    assert!(said.code != 0 && said.stdout.contains("No route to host"), "{said}");
}
