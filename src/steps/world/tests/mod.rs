//! The steps on a jail host that is this machine with FreeBSD's programs played by `freebsd.sh`: the scripts run for real, in a real
//! tree, and what they find and leave is state.
#![expect(clippy::unwrap_used, reason = "tests")]

mod bench;

use hypervisors::Change;
use serde_json::Value;

use super::*;
use crate::inventory::WorldMethod;
use crate::recipe::Verdict;
use crate::recipe::freebsd::elf;
use crate::steps::{Done, Step};
use bench::{Bench, RUN};

#[tokio::test]
async fn a_jail_goes_from_13_to_14() {
    let mut bench = Bench::new();
    bench.spec.base = Some(bench.at("oldsrc"));
    let plan = bench.plan().await;
    let kinds: Vec<&str> = plan.iter().map(|step| step.op.action().kind()).collect();
    assert_eq!(
        kinds,
        [
            "world.flags",
            "world.etc_tree",
            "world.etc_base",
            "world.etc_tree",
            "world.etcupdate",
            "world.install",
            "world.etcupdate",
            "world.delete_old",
            "world.fetch",
            "world.packages",
            "world.delete_old_libs",
            "world.undecided"
        ]
    );
    let stored = serde_json::to_string(&plan).unwrap();
    assert_eq!(serde_json::from_str::<Vec<crate::engine::PlanStep>>(&stored).unwrap(), plan);
    let done = bench.run(&plan, true).await.unwrap();

    assert_eq!(bench.read("bin/freebsd-version"), "USERLAND_VERSION=\"14.1-RELEASE-p5\"\n");
    // Untouched ones are the release's, changed ones are put together, and the jail's own win where that fails.
    assert_eq!(bench.read("etc/defaults/rc.conf"), "new defaults\n");
    assert!(bench.read("etc/master.passwd").contains("alice:") && bench.read("etc/master.passwd").contains("_newd:"));
    assert!(bench.read("etc/passwd").contains("_newd:*:601"), "pwd_mkdb made it");
    assert_eq!(bench.read("etc/newsyslog.conf"), "/var/log/maillog 640 30 * @T00 J\n");
    assert_eq!(bench.read("etc/login.conf.db"), "db\n");
    assert_eq!(bench.read("etc/mail/aliases.db"), "db\n");
    assert!(!bench.has("etc/rc.d/gptboot") && bench.has("etc/rc.d/newthing"));
    assert!(!bench.has("usr/games/fortune") && !bench.has("lib/libedit.so.7"));
    assert_eq!(bench.fake("mounted"), "", "no devfs is left behind");

    let queue: Vec<crate::recipe::conffiles::Conffile> =
        serde_json::from_value(done.last().unwrap().data.clone()).unwrap();
    let paths: Vec<&str> = queue.iter().map(|file| file.path.as_str()).collect();
    assert_eq!(paths, ["/etc/login.conf", "/etc/newsyslog.conf"]);
    let kept = |sha: &Option<String>| bench.kept(sha.as_deref().unwrap());
    assert_eq!(kept(&queue[1].in_force), "/var/log/maillog 640 30 * @T00 J\n");
    assert_eq!(kept(&queue[1].other), "/var/log/maillog  640  14  *  @T00  JC\n");
    assert!(done.last().unwrap().warnings[0].contains("undecided: 2 (upgradectl conffiles list ServerA)"));

    for step in plan.iter().take(plan.len() - 1) {
        let step = step.op.action().step();
        assert_eq!(step.probe(&bench.world).await.unwrap(), Probe::Present, "{}", step.title());
        assert!(!step.commands(&Default::default()).is_empty(), "{}", step.title());
        assert_eq!(step.undo(&bench.world, &Value::Null).await.unwrap(), Done::new(Change::Unchanged));
    }
    // The base trees are made once for all jails of the host.
    assert!(bench.at("jails/.upgradectl/etc-13.2-RELEASE.tbz").exists());
    let again = bench.plan().await;
    assert!(again.iter().all(|step| step.op.action().kind() != "world.etc_base"), "it has a tree of its own now");
}

#[tokio::test]
async fn a_world_that_trips_over_its_loader_is_run_again_once() {
    let bench = Bench::new();
    bench.set("trips", "1");
    let install = bench.install("a");
    assert_eq!(install.probe(&bench.world).await.unwrap(), Probe::Absent);
    install.apply(&bench.world, &Value::Null).await.unwrap();
    assert_eq!(install.probe(&bench.world).await.unwrap(), Probe::Present);

    let bench = Bench::new();
    bench.set("trips", "2");
    let install = bench.install("a");
    let error = install.apply(&bench.world, &Value::Null).await.unwrap_err();
    assert!(error.to_string().contains("status 2: ld-elf.so.1"), "{error}");
    assert!(error.help().unwrap().contains("upgradectl resume ServerA"));
    // What tells the release is there already: the tree is not taken for whole.
    assert_eq!(install.probe(&bench.world).await.unwrap(), Probe::Partial);
    install.apply(&bench.world, &Value::Null).await.unwrap();
    assert_eq!(install.probe(&bench.world).await.unwrap(), Probe::Present);
}

#[tokio::test]
async fn a_raised_securelevel_is_refused_and_noticed() {
    let bench = Bench::new();
    bench.set("securelevel", "1");
    assert!(bench.refused().await.iter().any(|why| why.starts_with("freebsd.securelevel")));
    let clear = ClearFlags { tree: bench.tree.clone(), release: "14.1-RELEASE-p5".into() };
    assert_eq!(clear.probe(&bench.world).await.unwrap(), Probe::Absent);
    assert!(clear.apply(&bench.world, &Value::Null).await.unwrap_err().to_string().contains("Operation not permitted"));
    let error = bench.install("a").apply(&bench.world, &Value::Null).await.unwrap_err();
    assert!(error.to_string().contains("Operation not permitted"), "{error}");
}

#[tokio::test]
async fn conflicts_of_a_merge_that_was_cut_short_are_settled_first() {
    let bench = Bench::new();
    let (mut old, mut new) = (bench.etc_tree("oldsrc", "13.2-RELEASE"), bench.etc_tree("src", "14.1-RELEASE-p5"));
    (old.built, new.built) = (false, true);
    for step in [&old, &new] {
        step.apply(&bench.world, &Value::Null).await.unwrap();
        assert_eq!(step.probe(&bench.world).await.unwrap(), Probe::Present);
    }
    let merge = EtcUpdate {
        tree: bench.tree.clone(),
        release: "14.1-RELEASE-p5".into(),
        tarball: new.tarball.clone(),
        pre_world: false,
        ignore_ids: true,
        job: "merge".into(),
    };
    let error = merge.apply(&bench.world, &Value::Null).await.unwrap_err();
    assert!(error.to_string().contains("nothing to compare"), "{error}");
    let base = EtcBase { tree: bench.tree.clone(), tarball: old.tarball };
    base.apply(&bench.world, &Value::Null).await.unwrap();
    assert_eq!(merge.probe(&bench.world).await.unwrap(), Probe::Absent);

    // Someone ran it, and went away.
    let root = bench.tree.root.display().to_string();
    let ball = new.tarball.display().to_string();
    bench.sh(&["etcupdate", "-F", "-D", &root, "-t", &ball]).await;
    assert_eq!(merge.probe(&bench.world).await.unwrap(), Probe::Partial);
    let merge = EtcUpdate { job: "merge-again".into(), ..merge };
    merge.apply(&bench.world, &Value::Null).await.unwrap();
    assert_eq!(merge.probe(&bench.world).await.unwrap(), Probe::Present);
    let queue = CollectUndecided { tree: bench.tree.clone() }.apply(&bench.world, &Value::Null).await.unwrap();
    assert_eq!(queue.data.as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn accounts_that_a_release_needs_come_even_into_files_that_stay() {
    let bench = Bench::new();
    let aside = bench.tree.scratch.join(UNDECIDED);
    std::fs::create_dir_all(&aside).unwrap();
    let new = bench.tree.root.join("var/db/etcupdate/current/etc");
    std::fs::create_dir_all(&new).unwrap();
    for name in ["master.passwd", "group"] {
        std::fs::copy(bench.at("src/etc").join(name), new.join(name)).unwrap();
    }
    let before = bench.read("etc/master.passwd");
    accounts::complete(&bench.machine, &bench.tree).await.unwrap();
    assert_eq!(bench.read("etc/master.passwd"), before, "nothing of it is in the queue");
    std::fs::write(aside.with_extension("list"), "/etc/master.passwd\0").unwrap();
    bench.write("etc/master.passwd", before.trim_end());
    for _ in 0..2 {
        accounts::complete(&bench.machine, &bench.tree).await.unwrap();
        let line = "_newd:*:601:601::0:0:New daemon:/nonexistent:/usr/sbin/nologin\n";
        assert_eq!(bench.read("etc/master.passwd"), format!("{before}{line}"));
    }
    assert!(!bench.read("etc/group").contains("_newd") && bench.read("etc/passwd").contains("_newd"));
    let queue = CollectUndecided { tree: bench.tree.clone() }.apply(&bench.world, &Value::Null).await.unwrap();
    assert_eq!(
        (&queue.data[0]["in_force"], &queue.data[0]["path"]),
        (&Value::Null, &Value::from("/etc/master.passwd"))
    );
}

#[tokio::test]
async fn a_broken_account_file_is_not_passed_over() {
    let bench = Bench::new();
    let conflict = bench.tree.root.join("var/db/etcupdate/conflicts/etc");
    std::fs::create_dir_all(&conflict).unwrap();
    std::fs::write(conflict.join("master.passwd"), "<<<<<<< yours\n").unwrap();
    std::fs::write(bench.tree.root.join("etc/master.passwd"), "bad line\n").unwrap();
    let merge = EtcUpdate {
        tree: bench.tree.clone(),
        release: "14.1-RELEASE-p5".into(),
        tarball: bench.at("x.tbz"),
        pre_world: true,
        ignore_ids: false,
        job: "merge".into(),
    };
    let error = merge.apply(&bench.world, &Value::Null).await.unwrap_err();
    assert!(error.to_string().contains("Inappropriate file type or format"), "{error}");
    assert!(conflict.join("master.passwd").exists());
}

#[tokio::test]
async fn packages_want_a_network_and_are_tried_again() {
    let bench = Bench::new();
    std::fs::remove_file(bench.at("fake/network")).unwrap();
    let packages = Packages {
        tree: bench.tree.clone(),
        release: "14.1-RELEASE-p5".into(),
        job: "pkg".into(),
        patience_s: 60,
        fetched: false,
    };
    // A jail of an earlier attempt, and its devices, are in the way.
    bench.set("jails/ServerA--k3f9_upgrade", "7");
    bench.set("mounted", &format!("devfs {}/dev devfs rw 0 0\n", bench.tree.root.display()));
    let error = packages.apply(&bench.world, &Value::Null).await.unwrap_err();
    assert!(error.to_string().contains("Unable to update repository"), "{error}");
    assert!(error.help().unwrap().contains("upgrade.packages = false"));
    assert_eq!(bench.fake("mounted"), "");
    bench.set("network", "");
    packages.apply(&bench.world, &Value::Null).await.unwrap();
    assert_eq!(packages.probe(&bench.world).await.unwrap(), Probe::Present);
}

#[tokio::test]
async fn packages_are_fetched_once_for_all_jails_and_nobody_is_trusted() {
    let bench = Bench::new();
    let shared = bench.at("packages");
    let fetch = |tree: &Tree| FetchPackages {
        tree: tree.clone(),
        release: "14.1-RELEASE-p5".into(),
        shared: shared.clone(),
        job: format!("fetch-{}", tree.run.to_lowercase()),
        patience_s: 60,
    };
    let fetched = || bench.fake("log").lines().filter(|line| line.contains("fetched")).count();
    // What the jail says of itself is not believed: a name that is not its content's, a link that leads out.
    std::fs::create_dir_all(bench.tree.root.join("var/cache/pkg")).unwrap();
    std::fs::write(bench.tree.root.join("var/cache/pkg/evil-1.0~0123456789.pkg"), "evil").unwrap();
    std::os::unix::fs::symlink("/etc/passwd", bench.tree.root.join("var/cache/pkg/link~0123456789.pkg")).unwrap();
    let first = fetch(&bench.tree);
    let done = first.apply(&bench.world, &Value::Null).await.unwrap();
    assert_eq!((fetched(), done.warnings.len()), (2, 0));
    assert_eq!(first.probe(&bench.world).await.unwrap(), Probe::Present);
    let kept = |shared: &std::path::Path| {
        let names = std::fs::read_dir(shared).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.map(|name| name.split('~').next().unwrap().to_owned()).collect();
        names.sort();
        names
    };
    assert_eq!(kept(&shared), ["apache24-2.4.62", "pcre2-10.43"]);

    // The second jail fetches nothing.
    let second = Tree { root: bench.at("jails/ServerB--k3f9"), run: "ServerB--k3f9".into(), ..bench.tree.clone() };
    let copy = std::process::Command::new("cp").arg("-a").args([&bench.tree.root, &second.root]).status().unwrap();
    assert!(copy.success());
    std::fs::remove_dir_all(second.root.join("var/cache/pkg")).unwrap();
    let scratch = Tree { scratch: bench.at("scratch-b"), ..second.clone() };
    fetch(&scratch).apply(&bench.world, &Value::Null).await.unwrap();
    assert_eq!(fetched(), 2);

    // One whose cache leads out of its tree gets nothing, gives nothing, and loses nothing by it.
    let third = Tree {
        root: bench.at("jails/ServerC--k3f9"),
        run: "ServerC--k3f9".into(),
        scratch: bench.at("scratch-c"),
        ..second
    };
    let copy = std::process::Command::new("cp").arg("-a").args([&bench.tree.root, &third.root]).status().unwrap();
    assert!(copy.success());
    std::fs::remove_dir_all(third.root.join("var/cache")).unwrap();
    std::fs::create_dir(bench.at("elsewhere")).unwrap();
    std::os::unix::fs::symlink(bench.at("elsewhere"), third.root.join("var/cache")).unwrap();
    fetch(&third).apply(&bench.world, &Value::Null).await.unwrap();
    let strays: Vec<_> = walk(&bench.at("elsewhere")).into_iter().filter(|name| name.contains(".new")).collect();
    assert!(strays.is_empty() && kept(&shared).len() == 2, "{strays:?}");
    assert_eq!(fetched(), 4, "it fetches by itself");
}

fn walk(directory: &std::path::Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().filter_map(Result::ok);
    entries.flat_map(|entry| [vec![entry.path().display().to_string()], walk(&entry.path())].concat()).collect()
}

#[tokio::test]
async fn old_libraries_stay_for_old_binaries() {
    let bench = Bench::new();
    let libs = DeleteOldLibs { tree: bench.tree.clone(), source: bench.source(), major: 14, job: "libs".into() };
    let found = elf::look(&bench.machine, &bench.tree.root, 14).await.unwrap();
    assert_eq!((found.seen, found.older.get(&13).unwrap().clone()), (1, (1, "/usr/local/bin/httpd".to_owned())));
    let done = libs.apply(&bench.world, &Value::Null).await.unwrap();
    assert!(
        done.warnings[0].contains("/usr/local/bin/httpd") && done.warnings[0].contains("misc/compat13x"),
        "{done:?}"
    );
    assert!(bench.has("lib/libedit.so.7"));
}

#[tokio::test]
async fn what_leads_out_of_the_tree_is_refused_before_anything() {
    let bench = Bench::new();
    let root = &bench.tree.root;
    assert_eq!(
        bench.refused().await,
        ["freebsd.base: nothing to compare the jail's configuration files with: no tree of 13.2-RELEASE"]
    );
    std::os::unix::fs::symlink("/etc", root.join("boot")).unwrap();
    std::os::unix::fs::symlink("../..", root.join("usr/libdata")).unwrap();
    std::os::unix::fs::symlink("usr/games", root.join("rescue")).unwrap();
    std::os::unix::fs::symlink("/nowhere", root.join("tmp")).unwrap();
    let refused = bench.refused().await;
    assert!(refused[0].ends_with("out of the tree: boot tmp usr/libdata"), "{refused:?}");
}

#[tokio::test]
async fn a_missing_world_is_built_if_that_is_wanted() {
    let mut bench = Bench::new();
    std::fs::remove_dir_all(bench.at("fake/obj")).unwrap();
    assert!(bench.refused().await.iter().any(|why| why.starts_with("freebsd.world: no finished buildworld")));
    bench.spec.build = true;
    bench.spec.base = Some(bench.at("oldsrc"));
    assert_eq!(bench.refused().await, [""; 0]);
    let plan = bench.plan().await;
    let build = plan[0].op.action().step();
    let src = bench.at("src").display().to_string();
    assert_eq!(build.commands(&Default::default()), [["make", "-C", &src, "-j", "4", "buildworld"]]);
    assert_eq!(build.probe(&bench.world).await.unwrap(), Probe::Absent);
    build.apply(&bench.world, &Value::Null).await.unwrap();
    assert_eq!(build.probe(&bench.world).await.unwrap(), Probe::Present);
}

#[tokio::test]
async fn an_old_target_goes_by_mergemaster() {
    let mut bench = Bench::new();
    bench.release("src", "6.2", "RELEASE-p6", 602_000);
    bench.build().await;
    std::fs::remove_file(bench.tree.root.join("bin/freebsd-version")).unwrap();
    bench.write("usr/include/osreldate.h", "#define __FreeBSD_version 491000\n");
    bench.write("etc/rc.d/own", "#!/bin/sh\n");
    bench.spec.packages = false;
    assert_eq!(bench.refused().await, [""; 0], "such a world has no freebsd-version");
    // Built from another source than lies there.
    bench.release("src", "6.3", "RELEASE", 603_000);
    assert!(bench.refused().await[0].starts_with("freebsd.world: 6.2 is built"), "{:?}", bench.refused().await);
    bench.release("src", "6.2", "RELEASE-p6", 602_000);
    let plan = bench.plan().await;
    let kinds: Vec<&str> = plan.iter().map(|step| step.op.action().kind()).collect();
    assert_eq!(
        kinds,
        ["world.flags", "world.install", "world.mergemaster", "world.rcd", "world.delete_old", "world.undecided"]
    );
    let done = bench.run(&plan, false).await.unwrap();
    assert!(bench.read("etc/master.passwd").contains("alice:") && bench.read("etc/master.passwd").contains("_newd:"));
    assert!(!bench.has("etc/rc.d/own") && bench.has("etc/rc.d/newthing"));
    assert!(done[3].warnings[0].contains("own"), "{:?}", done[3]);
    assert!(bench.tree.scratch.join("backup/rc.d/own").exists());
    let queue = done[5].data.as_array().unwrap();
    let paths: Vec<&str> = queue.iter().map(|file| file["path"].as_str().unwrap()).collect();
    assert!(paths.contains(&"/etc/newsyslog.conf") && paths.contains(&"/etc/defaults/rc.conf"), "{paths:?}");
}

#[tokio::test]
async fn binaries_are_the_other_way() {
    let mut bench = Bench::new();
    bench.spec.method = WorldMethod::FreebsdUpdate;
    let plan = bench.plan().await;
    let kinds: Vec<&str> = plan.iter().map(|step| step.op.action().kind()).collect();
    assert_eq!(
        kinds,
        ["world.freebsd_update", "world.fetch", "world.packages", "world.undecided"],
        "a binary for 13 keeps the libraries"
    );
    let done = bench.run(&plan, false).await.unwrap();
    assert_eq!(bench.read("bin/freebsd-version"), "USERLAND_VERSION=\"14.1-RELEASE\"\n");
    assert_eq!(done[3].data[0]["path"], "/etc/newsyslog.conf");
    assert!(bench.has("lib/libedit.so.7"));
    let libs = FreebsdUpdate {
        tree: bench.tree.clone(),
        from: "13.2-RELEASE".into(),
        to: "14.1-RELEASE".into(),
        old_libs: true,
        job: "libs".into(),
        patience_s: 60,
    };
    libs.apply(&bench.world, &Value::Null).await.unwrap();
    assert!(!bench.has("lib/libedit.so.7"));
}

#[tokio::test]
async fn start_scripts_of_an_older_time_are_replaced_whole() {
    let bench = Bench::new();
    let rcd = ReplaceRcd { tree: bench.tree.clone(), from: None, release: "14.1-RELEASE-p5".into() };
    let error = rcd.apply(&bench.world, &Value::Null).await.unwrap_err();
    assert!(error.to_string().contains("is empty"), "{error}");
    assert!(bench.has("etc/rc.d/gptboot"), "nothing to put in its place: it stays");
    bench.write("var/db/etcupdate/current/etc/rc.d/newthing", "#!/bin/sh\n");
    bench.write("etc/rc.d/own thing", "#!/bin/sh\n");
    assert_eq!(rcd.probe(&bench.world).await.unwrap(), Probe::Absent);
    for change in ["first", "again"] {
        let done = rcd.apply(&bench.world, &Value::Null).await.unwrap();
        assert!(done.warnings[0].contains("gptboot") && done.warnings[0].contains("own"), "{change}: {done:?}");
        assert_eq!(rcd.probe(&bench.world).await.unwrap(), Probe::Present);
    }
    assert!(!bench.has("etc/rc.d/gptboot") && bench.has("etc/rc.d/newthing"));
    assert!(bench.tree.scratch.join("backup/rc.d/own thing").exists());
    // A jail from before rc.d.
    std::fs::remove_dir_all(bench.tree.root.join("etc/rc.d")).unwrap();
    std::fs::remove_dir_all(bench.tree.scratch.join("backup")).unwrap();
    assert_eq!(rcd.apply(&bench.world, &Value::Null).await.unwrap().warnings, [""; 0]);
    assert_eq!(rcd.probe(&bench.world).await.unwrap(), Probe::Present);
}

#[tokio::test]
async fn what_is_laid_aside_is_read_without_following_links() {
    let bench = Bench::new();
    let aside = bench.tree.scratch.join(UNDECIDED);
    std::fs::create_dir_all(aside.join("etc")).unwrap();
    let list = "/etc/own.conf\0/etc/link\0/etc/gone\0/up/x\0../../x\0/etc/own.conf\0";
    std::fs::write(aside.with_extension("list"), list).unwrap();
    for name in ["own.conf", "link"] {
        std::fs::write(aside.join("etc").join(name), "new\n").unwrap();
    }
    bench.write("etc/own.conf", "own\n");
    bench.set("secret", "of the host");
    std::os::unix::fs::symlink(bench.at("fake/secret"), bench.tree.root.join("etc/link")).unwrap();
    std::os::unix::fs::symlink("../..", bench.tree.root.join("up")).unwrap();
    let done = CollectUndecided { tree: bench.tree.clone() }.apply(&bench.world, &Value::Null).await.unwrap();
    let seen: Vec<(String, bool, bool)> = serde_json::from_value::<Vec<crate::recipe::conffiles::Conffile>>(done.data)
        .unwrap()
        .into_iter()
        .map(|file| (file.path, file.in_force.is_some(), file.other.is_some()))
        .collect();
    let expected = [
        ("/etc/gone", false, false),
        ("/etc/link", false, true),
        ("/etc/own.conf", true, true),
        ("/up/x", false, false),
    ];
    assert_eq!(seen, expected.map(|(path, own, new)| (path.to_owned(), own, new)));
}

#[test]
fn scripts_survive_a_csh_login_shell() {
    let note = noting(Path::new("/s"), "what", "release", &["true".to_owned()]);
    let words = note.iter().map(String::as_str);
    let scripts = etc::SCRIPTS.iter().chain(mergemaster::SCRIPTS).copied();
    let others = [
        accounts::ADD,
        accounts::QUEUED,
        undecided::FILE,
        packages::PASSING,
        update::RUN,
        install::FLAGGED,
        fetch::SEED,
        fetch::COLLECT,
        NOTE,
    ];
    for script in scripts.chain(others).chain(words) {
        assert!(!script.contains(['\n', '!']), "{script}");
    }
}

#[tokio::test]
async fn a_newer_jail_and_an_older_host_are_refused() {
    let mut bench = Bench::new();
    bench.spec.base = Some(bench.at("oldsrc"));
    bench.set("kernel", "1302001");
    bench.set("running", "13.2-RELEASE");
    let refused = bench.refused().await;
    assert!(refused[0].starts_with("freebsd.kernel: the host runs 13.2-RELEASE, older than 14.1"), "{refused:?}");
    assert!(
        bench.findings().await.iter().all(|finding| finding.verdict == Verdict::Pass || !finding.remedy.is_empty())
    );
    assert_eq!(RUN, bench.tree.run);
}
