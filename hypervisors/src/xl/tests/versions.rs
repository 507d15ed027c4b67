//! Definitions under real git and subversion.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use super::backend::{Dom0, clone_edit};
use super::text::MERCURE;
use crate::occasion::Occasion;
use crate::{Change, DefinitionEdit, Hypervisor, Mark, Role};

/// Runs a command of the test's own, in a directory.
fn run(directory: &Path, argv: &[&str]) -> String {
    let output = Command::new(argv[0])
        .args(&argv[1..])
        .current_dir(directory)
        .env("HOME", directory)
        .env("LC_ALL", "C.UTF-8")
        .output()
        .unwrap_or_else(|error| panic!("{argv:?}: {error}"));
    assert!(output.status.success(), "{argv:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Whether a program is there; a test that needs one which is not says so.
fn there(program: &str) -> bool {
    let there = Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success());
    if !there {
        eprintln!("SKIPPED: needs {program}");
    }
    there
}

fn in_git(dom0: &Dom0) -> impl Fn(&[&str]) -> String + use<> {
    let config = dom0.at("config");
    let git = move |words: &[&str]| {
        run(&config, &[&["git", "-c", "user.name=op", "-c", "user.email=op@example.org"], words].concat())
    };
    git(&["init", "--quiet"]);
    git(&["add", "."]);
    git(&["commit", "--quiet", "-m", "as it is"]);
    git
}

fn log(git: &impl Fn(&[&str]) -> String) -> Vec<String> {
    git(&["log", "--reverse", "--name-status", "--format=%an: %s"])
        .lines()
        .filter(|l| !l.is_empty())
        .map(str::to_owned)
        .collect()
}

/// What a run does to definitions: the clone's comes and goes, production's changes and comes back. Returns what was told.
async fn a_run(dom0: &Dom0) -> Vec<String> {
    let occasion = Occasion::new("mercure--k3f9: a step");
    let work = async {
        let original = dom0.xl.definition("mercure").await.unwrap().unwrap();
        let clone = dom0.xl.derive(&original, &clone_edit()).unwrap();
        dom0.xl.define(&clone).await.unwrap();
        let mark = Some(Some(Mark { run: "mercure--k3f9".into(), role: Role::Production }));
        let promoted = dom0.xl.derive(&original, &DefinitionEdit { mark, ..Default::default() }).unwrap();
        dom0.xl.define(&promoted).await.unwrap();
        dom0.xl.define(&original).await.unwrap();
        dom0.xl.undefine("mercure--k3f9").await.unwrap();
    };
    Arc::clone(&occasion).during(work).await;
    assert!(!dom0.at("config/mercure--k3f9.cfg").exists());
    occasion.notices()
}

#[tokio::test]
async fn each_change_is_committed_to_git_alone() {
    if !there("git") {
        return;
    }
    let dom0 = Dom0::with_mercure();
    fs::write(dom0.at("config/other.cfg"), "name='other'\n").unwrap();
    let git = in_git(&dom0);
    // what others are doing meanwhile, staged or not, is theirs
    fs::write(dom0.at("config/other.cfg"), "name='other'\nvcpus=2\n").unwrap();
    fs::write(dom0.at("config/new.cfg"), "name='new'\n").unwrap();
    git(&["add", "new.cfg"]);
    let before = git(&["status", "--porcelain"]);
    assert_eq!(a_run(&dom0).await, Vec::<String>::new());
    assert_eq!(git(&["status", "--porcelain"]), before);
    assert_eq!(
        log(&git)[3..],
        [
            "upgradectl: mercure--k3f9: a step",
            "A\tmercure--k3f9.cfg",
            "upgradectl: mercure--k3f9: a step",
            "M\tmercure.cfg",
            "upgradectl: mercure--k3f9: a step",
            "M\tmercure.cfg",
            "upgradectl: mercure--k3f9: a step",
            "D\tmercure--k3f9.cfg",
        ]
    );
    assert_eq!(dom0.definition("mercure"), MERCURE);
    assert_eq!(git(&["diff", "HEAD~4", "--", "mercure.cfg"]), "");
    // without an occasion the mark names the run
    let original = dom0.xl.definition("mercure").await.unwrap().unwrap();
    dom0.xl.define(&dom0.xl.derive(&original, &clone_edit()).unwrap()).await.unwrap();
    assert_eq!(git(&["log", "-1", "--format=%s%n%ae"]), "mercure--k3f9: define mercure--k3f9\nupgradectl@trolls\n");
}

#[tokio::test]
async fn uncommitted_changes_of_others_stay_uncommitted() {
    if !there("git") {
        return;
    }
    let dom0 = Dom0::with_mercure();
    let git = in_git(&dom0);
    let theirs = MERCURE.replace("'512'", "'640'");
    fs::write(dom0.at("config/mercure.cfg"), &theirs).unwrap();
    let before = (git(&["status", "--porcelain"]), git(&["diff"]));
    let told = a_run(&dom0).await;
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[0].contains("mercure.cfg is not committed: it had changes that nobody had committed"), "{told:?}");
    assert_eq!((git(&["status", "--porcelain"]), git(&["diff"])), before);
    assert_eq!(dom0.definition("mercure"), theirs);
    assert_eq!(git(&["log", "--format=%s", "--", "mercure.cfg"]), "as it is\n");
}

#[tokio::test]
async fn files_out_of_gits_sight_stay_so() {
    if !there("git") {
        return;
    }
    let dom0 = Dom0::new();
    fs::write(dom0.at("config/.gitignore"), "mercure--*\n").unwrap();
    let git = in_git(&dom0);
    fs::write(dom0.at("config/mercure.cfg"), MERCURE).unwrap();
    assert_eq!(a_run(&dom0).await, Vec::<String>::new());
    assert_eq!(git(&["status", "--porcelain"]), "?? mercure.cfg\n");
    assert_eq!(git(&["log", "--format=%s"]), "as it is\n");
}

#[tokio::test]
async fn a_failing_hook_is_told_and_the_definition_stands() {
    if !there("git") {
        return;
    }
    let dom0 = Dom0::with_mercure();
    let git = in_git(&dom0);
    let hook = dom0.at("config/.git/hooks/pre-commit");
    fs::create_dir_all(hook.parent().unwrap()).unwrap();
    fs::write(&hook, "#!/bin/sh\necho not on a Friday >&2\nexit 1\n").unwrap();
    fs::set_permissions(&hook, fs::Permissions::from_mode(0o755)).unwrap();
    let told = a_run(&dom0).await;
    assert!(
        told[0].contains("mercure--k3f9.cfg is not committed: git commit exited with 1: not on a Friday"),
        "{told:?}"
    );
    assert_eq!(told.len(), 2, "what is as committed again has nothing to tell: {told:?}");
    assert_eq!(git(&["status", "--porcelain"]), "", "nothing is left half added");
    assert_eq!(dom0.definition("mercure"), MERCURE);
}

#[tokio::test]
async fn a_merge_in_progress_is_left_to_those_who_merge() {
    if !there("git") {
        return;
    }
    let dom0 = Dom0::with_mercure();
    let git = in_git(&dom0);
    git(&["branch", "side"]);
    fs::write(dom0.at("config/other.cfg"), "name='other'\n").unwrap();
    git(&["add", "."]);
    git(&["commit", "--quiet", "-m", "here"]);
    git(&["checkout", "--quiet", "side"]);
    fs::write(dom0.at("config/third.cfg"), "name='third'\n").unwrap();
    git(&["add", "."]);
    git(&["commit", "--quiet", "-m", "there"]);
    git(&["merge", "--quiet", "--no-commit", "-"]);
    let told = a_run(&dom0).await;
    assert!(told.iter().all(|words| words.contains("during a merge")) && !told.is_empty(), "{told:?}");
    assert_eq!(git(&["status", "--porcelain"]), "A  other.cfg\n");
}

/// Root works on an operator's working copy: neither its objects nor its hooks may become root's.
#[tokio::test]
async fn commits_are_made_as_the_owner_of_the_directory() {
    if !there("git") || !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: needs git, and root to give a directory away");
        return;
    }
    let dom0 = Dom0::with_mercure();
    let _git = in_git(&dom0);
    fs::set_permissions(dom0.directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    run(dom0.directory.path(), &["chown", "-R", "65534:65534", "config"]);
    assert_eq!(a_run(&dom0).await, Vec::<String>::new());
    let strangers = run(dom0.directory.path(), &["find", "config", "!", "-user", "65534"]);
    assert_eq!(strangers, "");
    let subjects = run(&dom0.at("config"), &["git", "-c", "safe.directory=*", "log", "--format=%s"]);
    assert_eq!(subjects.lines().count(), 5, "{subjects}");
}

fn in_svn(dom0: &Dom0) -> impl Fn(&[&str]) -> String + use<> {
    let top = dom0.directory.path().to_owned();
    run(&top, &["svnadmin", "create", "repository"]);
    let url = format!("file://{}", top.join("repository").display());
    let config = dom0.at("config");
    let svn = move |words: &[&str]| run(&config, &[&["svn", "--non-interactive"], words].concat());
    svn(&["checkout", "--quiet", &url, "."]);
    svn(&["add", "--quiet", "--force", "."]);
    svn(&["commit", "--quiet", "-m", "as it is"]);
    svn(&["update", "--quiet"]);
    svn
}

#[tokio::test]
async fn each_change_is_committed_to_subversion_alone() {
    if !there("svn") {
        return;
    }
    let dom0 = Dom0::with_mercure();
    fs::write(dom0.at("config/other.cfg"), "name='other'\n").unwrap();
    let svn = in_svn(&dom0);
    fs::write(dom0.at("config/other.cfg"), "name='other'\nvcpus=2\n").unwrap();
    let before = svn(&["status"]);
    assert_eq!(a_run(&dom0).await, Vec::<String>::new());
    assert_eq!(svn(&["status"]), before);
    svn(&["update", "--quiet"]);
    let log = svn(&["log", "-v", "-q", "-r", "2:HEAD"]);
    let paths: Vec<&str> = log.lines().map(str::trim).filter(|l| l.len() > 2 && l[1..].starts_with(" /")).collect();
    assert_eq!(paths, ["A /mercure--k3f9.cfg", "M /mercure.cfg", "M /mercure.cfg", "D /mercure--k3f9.cfg"]);
    assert!(svn(&["log", "-r", "2"]).contains("mercure--k3f9: a step"));
    assert_eq!(svn(&["diff", "-r", "1:HEAD", "mercure.cfg"]), "");
    assert_eq!(dom0.definition("mercure"), MERCURE);
}

#[tokio::test]
async fn subversion_keeps_what_is_not_ours_too() {
    if !there("svn") {
        return;
    }
    let dom0 = Dom0::with_mercure();
    let svn = in_svn(&dom0);
    // a hook of the repository that lets nothing in
    let hook = dom0.at("repository/hooks/pre-commit");
    fs::write(&hook, "#!/bin/sh\necho closed >&2\nexit 1\n").unwrap();
    fs::set_permissions(&hook, fs::Permissions::from_mode(0o755)).unwrap();
    let told = a_run(&dom0).await;
    assert!(told[0].contains("svn commit exited with 1") && told.len() == 2, "{told:?}");
    assert_eq!(svn(&["status"]), "");
    fs::remove_file(&hook).unwrap();
    // uncommitted changes
    let theirs = MERCURE.replace("'512'", "'640'");
    fs::write(dom0.at("config/mercure.cfg"), &theirs).unwrap();
    let told = a_run(&dom0).await;
    assert!(told.len() == 2 && told[0].contains("nobody had committed"), "{told:?}");
    assert_eq!((svn(&["status"]), dom0.definition("mercure")), ("M       mercure.cfg\n".to_owned(), theirs));
    svn(&["revert", "--quiet", "mercure.cfg"]);
    // keywords, which a commit would expand
    svn(&["propset", "--quiet", "svn:keywords", "Id", "mercure.cfg"]);
    svn(&["commit", "--quiet", "-m", "keywords"]);
    let told = a_run(&dom0).await;
    assert!(told.len() == 2 && told[0].contains("svn:keywords"), "{told:?}");
    assert_eq!((svn(&["status"]), dom0.definition("mercure")), (String::new(), MERCURE.to_owned()));
    let original = dom0.xl.definition("mercure").await.unwrap().unwrap();
    assert_eq!(dom0.xl.define(&original).await.unwrap(), Change::Unchanged);
}
