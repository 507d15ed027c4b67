//! What is refused before anything is touched: exit code, place or cause, remedy; the world stays as it was.

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt as _;

use integration::cli::Said;

use crate::bench::{Bench, Ending as _};

/// The refusal is coded, names what is wrong, says a remedy, and nothing was touched.
#[track_caller]
fn refused(bench: &Bench, said: &Said, code: i32, words: &[&str]) {
    assert_eq!(said.code, code, "{said}");
    let error = said.ending()["error"].to_string();
    for word in words {
        assert!(error.contains(word), "{word:?} is not in {error}");
    }
    assert!(said.ending()["error"]["help"].is_string(), "no remedy: {error}");
    assert_eq!(bench.trace().len(), 0, "something was done to the world: {:?}", bench.trace());
    assert_eq!(bench.state(), "none");
}

/// `clone` is refused after this was done to the world.
#[track_caller]
fn clone_is_refused(words: &[&str], spoil: impl FnOnce(&Bench)) {
    let bench = Bench::new();
    spoil(&bench);
    let before = bench.picture();
    let said = bench.verb("clone");
    refused(&bench, &said, 7, words);
    before.assert_same(&bench.picture(), "after a refusal");
}

#[test]
fn unknown_guest() {
    let bench = Bench::new();
    let said = bench.ctl_run(&["--json", "clone", "mercur"]);
    refused(&bench, &said, 2, &["mercur", "did you mean mercure?"]);
}

#[test]
fn guest_that_the_host_does_not_have() {
    let bench = Bench::new();
    bench.edit_inventory("guests.mercure", "guests.saturne");
    let said = bench.ctl_run(&["--json", "clone", "saturne"]);
    refused(&bench, &said, 7, &["saturne", "no guest of that name", "mercure"]);
}

#[test]
fn misspelt_key() {
    let bench = Bench::new();
    bench.edit_inventory("upgrade =", "upgarde =");
    let said = bench.ctl_run(&["clone", "mercure"]);
    assert_eq!(said.code, 2, "{said}");
    assert!(said.stderr.contains("upgarde") && said.stderr.contains("upgrade"), "{said}");
    assert!(said.stderr.contains("inventory.toml:7"), "{said}");
}

#[test]
fn inventory_that_is_not_there() {
    let bench = Bench::new();
    fs::remove_file(bench.path("inventory.toml")).unwrap();
    assert_eq!(bench.ctl_run(&["clone", "mercure"]).code, 2);
}

#[test]
fn command_line_that_is_not_understood() {
    let bench = Bench::new();
    for args in [&["clone"][..], &["clone", "mercure", "--ip", "nonsense"], &["clne", "mercure"], &["abort", "a", "b"]]
    {
        let said = bench.ctl_run(args);
        assert_eq!(said.code, 2, "{said}");
    }
}

#[test]
fn address_that_answers() {
    clone_is_refused(&["10.0.5.16 answers", "00:16:3e:00:00:99"], |bench| {
        let mac = "00:16:3e:00:00:99".parse().unwrap();
        bench
            .sim()
            .configure(|host| {
                host.neighbours.insert("10.0.5.16".parse().unwrap(), mac);
            })
            .unwrap();
    });
}

#[test]
fn address_of_the_original_itself() {
    clone_is_refused(&["original's own"], |bench| bench.edit_inventory(".16", ".12"));
}

#[test]
fn hosts_file_that_is_a_link() {
    clone_is_refused(&["etc/hosts"], |bench| {
        let hosts = bench.volume("mercure", "etc/hosts");
        fs::remove_file(&hosts).unwrap();
        symlink("/etc/passwd", &hosts).unwrap();
    });
}

#[test]
fn hosts_file_that_is_a_link_out_of_the_guest() {
    clone_is_refused(&["etc/hosts"], |bench| {
        let hosts = bench.volume("mercure", "etc/hosts");
        fs::remove_file(&hosts).unwrap();
        symlink("../../../../../../../../etc/passwd", &hosts).unwrap();
    });
}

#[test]
fn interfaces_that_are_not_text() {
    clone_is_refused(&["etc/network/interfaces"], |bench| {
        let text = b"auto eth0\niface eth0 inet static\n\taddress 10.0.5.12/24\n# \xff\xfe\n";
        fs::write(bench.volume("mercure", "etc/network/interfaces"), text).unwrap();
    });
}

#[test]
fn interfaces_with_windows_line_ends_are_kept_so_or_refused() {
    let bench = Bench::new();
    let file = bench.volume("mercure", "etc/network/interfaces");
    let text = fs::read_to_string(&file).unwrap().replace('\n', "\r\n");
    fs::write(&file, &text).unwrap();
    let before = bench.picture();
    let said = bench.verb("clone");
    if said.code == 7 {
        return refused(&bench, &said, 7, &["etc/network/interfaces"]);
    }
    assert_eq!(said.code, 0, "{said}");
    let clone = bench.volume(&format!("{}-root", bench.run_id()), "etc/network/interfaces");
    assert_eq!(fs::read_to_string(clone).unwrap(), text.replace("10.0.5.12", "10.0.5.16"));
    bench.good("abort", "aborted");
    before.assert_same(&bench.picture(), "after abort");
}

#[test]
fn guest_that_is_off() {
    clone_is_refused(&["not running", "start mercure"], |bench| {
        let file = bench.path("world/power/mercure.json");
        let text = fs::read_to_string(&file).unwrap().replace("\"power\": \"on\"", "\"power\": \"off\"");
        fs::write(file, text).unwrap();
    });
}

#[test]
fn guest_that_refuses_ssh() {
    clone_is_refused(&["connection refused", "ssh"], |bench| {
        let file = bench.path("world/power/mercure.json");
        let text = fs::read_to_string(&file).unwrap().replace("\"ssh.service\"", "\"other.service\"");
        fs::write(file, text).unwrap();
    });
}

#[test]
fn packages_in_disorder() {
    clone_is_refused(&["dpkg"], |bench| {
        let file = bench.volume("mercure", "var/lib/dpkg/status");
        let text = fs::read_to_string(&file).unwrap();
        fs::write(file, text.replacen("install ok installed", "install ok half-configured", 1)).unwrap();
    });
}

#[test]
fn disk_that_is_not_there() {
    clone_is_refused(&["/srv/news", "/srv/mail"], |bench| bench.edit_inventory("/srv/mail\" =", "/srv/news\" ="));
}

#[test]
fn strategy_that_the_platform_does_not_have() {
    clone_is_refused(&["strategy"], |bench| {
        bench.edit_inventory("clone = { ", "clone = { strategy = \"origin\", ");
    });
}

#[test]
fn state_directory_that_cannot_be_written() {
    let bench = Bench::new();
    let before = bench.picture();
    fs::write(bench.path("state"), "not a directory").unwrap();
    let said = bench.verb("clone");
    assert_eq!(said.code, 11, "{said}");
    assert_eq!(bench.trace().len(), 0);
    before.assert_same(&bench.picture(), "after a refusal");
}

#[test]
fn state_directory_that_is_read_only() {
    let bench = Bench::new();
    bench.good_way_to("cloned");
    let effects = bench.trace().len();
    let command = bench.ctl.command(["--json", "upgrade", "mercure"]);
    // Root ignores modes: as nobody, who may read all of it and write nothing, and may not look where the binary lies.
    let binary = bench.path("upgradectl");
    fs::copy(command.get_program(), &binary).unwrap();
    integration::command::run("chmod").args(["-R", "a+rX,a-w"]).arg(bench.path("")).output().unwrap();
    let mut as_nobody = std::process::Command::new(&binary);
    as_nobody.args(command.get_args()).envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    if nix::unistd::geteuid().is_root() {
        as_nobody.uid(65534).gid(65534);
    }
    let output = as_nobody.output().unwrap();
    integration::command::run("chmod").args(["-R", "u+w"]).arg(bench.path("")).output().unwrap();
    assert_eq!(output.status.code(), Some(11), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(bench.trace().len(), effects);
}

#[test]
fn journal_of_a_newer_version() {
    let bench = Bench::new();
    bench.good_way_to("cloned");
    fs::write(bench.path("state/journal.db"), "this is no journal at all; it is longer than a header would be")
        .unwrap();
    let said = bench.verb("upgrade");
    assert_eq!(said.code, 11, "{said}");
}

#[test]
fn verbs_that_the_state_does_not_allow() {
    let bench = Bench::new();
    for verb in ["upgrade", "verify", "promote", "rollback", "commit", "abort", "resume"] {
        let said = bench.verb(verb);
        refused(&bench, &said, 9, &["no open run"]);
    }
    let allowed = [("cloned", &["upgrade", "abort"][..]), ("upgraded", &["verify", "upgrade", "abort"])];
    let all = ["clone", "upgrade", "verify", "promote", "rollback", "commit", "abort"];
    for (state, verbs) in allowed {
        let verb = crate::bench::WAY.iter().find(|(_, leads_to)| *leads_to == state).unwrap().0;
        bench.good(verb, state);
        for verb in all.iter().filter(|verb| !verbs.contains(verb)) {
            let effects = bench.trace().len();
            let said = bench.verb(verb);
            assert_eq!(said.code, 9, "{verb} of a run that is {state}: {said}");
            assert_eq!((bench.state().as_str(), bench.trace().len()), (state, effects));
        }
    }
}

#[test]
fn looking_changes_nothing() {
    let bench = Bench::new();
    let before = bench.picture();
    let said = bench.ctl_run(&["--json", "plan", "clone", "mercure"]);
    assert_eq!(said.code, 0, "{said}");
    let digest = said.json().unwrap()["digest"].as_str().unwrap().to_owned();
    assert_eq!(bench.ctl_run(&["clone", "mercure", "--dry-run"]).code, 0);
    assert!(!bench.path("state/journal.db").exists(), "a look made a journal");
    before.assert_same(&bench.picture(), "after a look");
    assert!(bench.trace().is_empty());

    // What is carried out is what was looked at.
    let said = bench.verb_with("clone", &["--approve", &digest]);
    assert_eq!(said.code, 0, "{said}");
    let started = said.events().unwrap().into_iter().find(|event| event["event"] == "verb_started").unwrap();
    assert_eq!(started["plan"], digest.as_str());

    for (verb, state) in
        [("upgrade", "upgraded"), ("verify", "verified"), ("promote", "promoted"), ("rollback", "upgraded")]
    {
        let before = (bench.picture(), bench.trace().len(), bench.state());
        let plan = bench.ctl_run(&["--json", "plan", verb, "mercure"]);
        assert_eq!(plan.code, 0, "{plan}");
        assert_eq!((bench.picture(), bench.trace().len(), bench.state()), before, "plan {verb} changed something");
        let said = bench.good(verb, state);
        let started = said.events().unwrap().into_iter().find(|event| event["event"] == "verb_started").unwrap();
        assert_eq!(started["plan"], plan.json().unwrap()["digest"], "plan {verb} and {verb} differ");
    }
}

#[test]
fn approval_of_another_plan() {
    let bench = Bench::new();
    let said = bench.ctl_run(&["--json", "plan", "clone", "mercure"]);
    let digest = said.json().unwrap()["digest"].as_str().unwrap().to_owned();
    bench.edit_inventory(".16", ".17");
    let said = bench.verb_with("clone", &["--approve", &digest]);
    refused(&bench, &said, 6, &[&digest]);
}

#[test]
fn nobody_to_ask() {
    let bench = Bench::new();
    bench.good_way_to("verified");
    let before = bench.picture();
    let said = bench.ctl_run(&["--json", "promote", "mercure"]);
    assert_eq!(said.code, 6, "{said}");
    assert_eq!(bench.state(), "verified");
    before.assert_same(&bench.picture(), "without an approval");
    bench.good("promote", "promoted");
    for verb in ["commit", "rollback", "abort"] {
        let said = bench.ctl_run(&["--json", verb, "mercure"]);
        assert_eq!((said.code, bench.state().as_str()), (6, "promoted"), "{said}");
    }
}

#[test]
fn a_clone_runs_on_a_host_of_its_platform_that_is_known() {
    let bench = Bench::new();
    let before = bench.picture();
    let said = bench.verb_with("clone", &["--runs-on", "nowhere"]);
    assert_eq!(said.code, 2, "{said}");
    bench.edit_inventory("[guests.mercure]", "galaad = { hypervisor = \"none\" }\n[guests.mercure]");
    let said = bench.verb_with("clone", &["--runs-on", "galaad"]);
    assert_eq!(said.code, 7, "{said}");
    assert!(said.ending()["error"].to_string().contains("hosts.galaad"), "{said}");
    before.assert_same(&bench.picture(), "refused");
    let said = bench.verb_with("clone", &["--runs-on", "here"]);
    assert_eq!((said.code, said.state().as_deref()), (0, Some("cloned")), "{said}");
}
