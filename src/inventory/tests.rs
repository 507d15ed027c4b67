//! The reader against the reference example, the starter text and every kind of slip.

use std::path::Path;

use super::load::{InventoryError, load};
use super::*;

fn at(files: &[(&str, &str)]) -> (tempfile::TempDir, Result<Inventory, InventoryError>) {
    let directory = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = directory.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    let loaded = load(&directory.path().join("inventory.toml"));
    (directory, loaded)
}

fn errors(files: &[(&str, &str)]) -> String {
    let (directory, loaded) = at(files);
    loaded.unwrap_err().to_string().replace(directory.path().to_str().unwrap(), "/etc/upgradectl")
}

fn errors_of(text: &str) -> String {
    errors(&[("inventory.toml", text)])
}

fn example() -> Inventory {
    load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/inventory/example.toml")).unwrap()
}

#[test]
fn the_reference_example_loads() {
    let inventory = example();
    insta::assert_snapshot!(serde_json::to_string_pretty(&inventory).unwrap());
}

#[test]
fn the_model_survives_json() {
    let inventory = example();
    let text = serde_json::to_string(&inventory).unwrap();
    assert_eq!(serde_json::from_str::<Inventory>(&text).unwrap(), inventory);
}

#[test]
fn defaults_are_merged_into_guests() {
    let inventory = at(&[(
        "inventory.toml",
        r#"
version = 1
[defaults]
ssh = { user = "adm", sudo = true }
checks = [{ kind = "imap" }]
clone.snapshot = { size = "2G", extend_at = 70 }
[hosts]
here = { hypervisor = "sim" }
[guests.a]
host = "here"
ssh = { port = 2222 }
clone.snapshot.size = "3G"
[guests.b]
host = "here"
ssh.user = "root"
checks = []
"#,
    )])
    .1
    .unwrap();
    let a = &inventory.guests["a"];
    assert_eq!((a.ssh.user.as_str(), a.ssh.port, a.ssh.sudo), ("adm", 2222, true));
    assert_eq!((a.checks.len(), a.clone.snapshot.size), (1, Some(values::Size::Bytes(3 << 30))));
    assert_eq!(a.clone.snapshot.extend_at, Some(70));
    let b = &inventory.guests["b"];
    assert_eq!((b.ssh.user.as_str(), b.ssh.port, b.checks.len()), ("root", 22, 0));
}

#[test]
fn the_starter_loads_as_it_is_and_with_every_comment_taken_off() {
    assert!(at(&[("inventory.toml", STARTER)]).1.unwrap().guests.is_empty());
    // The keys of the alternatives cannot stand together: each is tried where it belongs.
    let bare = STARTER
        .lines()
        .skip_while(|line| !line.starts_with("version"))
        .map(|line| line.strip_prefix("# ").or(line.strip_prefix('#')).unwrap_or(line))
        .filter(|line| line.starts_with('[') || line.contains(" = "))
        .filter(|line| !line.starts_with("upgrade = ") || line.contains("debian"))
        .filter(|line| {
            !["definitions", "jails", "url", "ca", "credentials", "state", "part", "deadline", "Further"]
                .iter()
                .any(|key| line.starts_with(key))
        })
        .filter(|line| !line.starts_with("Checks:"))
        .collect::<Vec<_>>()
        .join("\n");
    let inventory = at(&[("inventory.toml", &bare)]).1.unwrap();
    let web = &inventory.guests["web"];
    assert_eq!((web.checks.len(), web.hooks.len(), web.carry.len()), (5, 2, 1));
}

#[test]
fn further_files_are_read_in_name_order() {
    let inventory = at(&[
        ("inventory.toml", "version = 1\n[hosts]\nhere = { hypervisor = \"sim\" }\n"),
        ("inventory.d/b.toml", "[guests.b]\nhost = \"there\"\n"),
        ("inventory.d/a.toml", "[hosts]\nthere = { hypervisor = \"sim\" }\n"),
        ("inventory.d/.hidden.toml", "this is not read"),
        ("inventory.d/notes.txt", "nor this"),
    ])
    .1
    .unwrap();
    assert_eq!(inventory.guests["b"].runs_on, "there");
}

#[test]
fn a_disk_may_have_other_paths_where_it_is_run() {
    let inventory = at(&[(
        "inventory.toml",
        r#"
version = 1
[hosts]
trolls = { hypervisor = "xl" }
perceval = { hypervisor = "libvirt", uri = "xen+ssh://perceval/system", links = { xenbr0 = "eth1" } }
[guests.mercure]
host = "trolls"
runs_on = "perceval"
disks.xvda1 = { volume = "/dev/vg1/mercure", copy = "/dev/etherd/e3.6" }
disks.xvda2 = { rule = "swap", copy = "/dev/{run}" }
disks.xvdb1 = "detach"
"#,
    )])
    .1
    .unwrap();
    let mercure = &inventory.guests["mercure"];
    assert_eq!(inventory.hosts["perceval"].links["xenbr0"], "eth1");
    assert_eq!(mercure.paths["xvda1"].volume.as_deref(), Some(Path::new("/dev/vg1/mercure")));
    assert_eq!(mercure.paths["xvda2"].copy.as_deref(), Some(Path::new("/dev/{run}")));
    let rules: Vec<_> = mercure.disks.iter().map(|(name, rule)| (name.as_str(), *rule)).collect();
    assert_eq!(rules, [("xvda2", DiskRule::Swap), ("xvdb1", DiskRule::Detach)]);
    let said = errors_of(
        "version = 1\n[hosts]\na = { hypervisor = \"xl\", links = { x = \"a/b\" } }\n[guests.g]\nhost = \"a\"\n\
         disks.x = { volumes = \"/a\", copy = \"a\" }\n",
    );
    for part in ["not the name of an interface", "volumes", "absolute path"] {
        assert!(said.contains(part), "{part}: {said}");
    }
}

#[test]
fn a_name_defined_twice_is_an_error() {
    insta::assert_snapshot!(errors(&[
        ("inventory.toml", "version = 1\n[hosts]\nhere = { hypervisor = \"sim\" }\n[guests.web]\nhost = \"here\"\n"),
        ("inventory.d/more.toml", "[defaults]\n[hosts.here]\nhypervisor = \"sim\"\n\n[guests.web]\nhost = \"here\"\n"),
        ("inventory.d/rest.toml", "[defaults]\n"),
    ]));
    insta::assert_snapshot!(errors_of(
        "version = 1\n[hosts.a]\nhypervisor = \"sim\"\n[hosts.a]\nhypervisor = \"sim\"\n"
    ));
}

#[test]
fn what_cannot_be_parsed_is_told_with_its_place() {
    insta::assert_snapshot!(errors_of("version = 1\n[hosts\nhere = = 3\n[guests.x]\nhost = \"a\n"));
}

#[test]
fn every_slip_is_told_at_once() {
    insta::assert_snapshot!(errors_of(
        r#"
version = 2
gusts = 1
[defaults]
ssh = { usr = "root", port = 99999 }
[hosts]
trolls = { hypervisor = "xll" }
here = { hypervisor = "libvirt", jails = "/data", ssh = { address = "-oProxyCommand=x" } }
bare = { uri = "lxc:///" }
vc = { hypervisor = "vsphere", thumbprint = "ab:cd", credentials = { } }
"a b" = { hypervisor = "sim" }

[guests.mercure]
host = "troll"
runs_on = 3
quarantin = { off = ["postfix"] }
disks = { xvdb1 = "detatch" }
upgrade = { recipe = "debian", too = "trixie" }
promote = { if_check_fails = "revert" }
carry = [{ kind = "rsync", path = "var/spool" }, { kind = "scp", path = "/x/../y" }]
kernel = "guest"
[guests.mercure.quarantine]
off = ["../../etc/passwd", "postfix"]
[guests.mercure.clone]
strategy = "in_place"
ip = [".300", "eth0=", ".16"]
mac = "00:16:3e"
hostname = "bad_name"
memory = "512 MB"
snapshot = { size = "110%FREE", extend_at = 20 }
network = "closed"
[guests.mercure.source]
filesystems = "/"
parking = "here"
prune = ["../x", "/boot", "a/*", "usr/src"]
[guests.run--x]
host = "here"
[guests.empty]
"#
    ));
}

#[test]
fn a_world_has_the_keys_of_its_method() {
    let head = "version = 1\n[hosts]\nj = { hypervisor = \"jail\", jails = \"/jails\" }\n[guests.a]\nhost = \"j\"\n";
    let world = |keys: &str| {
        let text = format!("{head}upgrade = {{ recipe = \"freebsd-world\"{keys} }}\n");
        at(&[("inventory.toml", &text)]).1.map(|inventory| {
            match inventory.guests["a"].upgrade.clone().unwrap().recipe {
                Recipe::FreebsdWorld(world) => world,
                other => panic!("{other:?}"),
            }
        })
    };
    let plain = world("").unwrap();
    assert!(plain.packages && !plain.build && plain.src == Path::new("/usr/src") && plain.base.is_none());
    let all = world(", src = \"/s\", obj = \"/o\", build = true, base = \"/b.tbz\", packages = false").unwrap();
    assert!(!all.packages && all.build && all.obj.as_deref() == Some(Path::new("/o")));
    let binary = world(", method = \"freebsd-update\", to = \"14.1-RELEASE\"").unwrap();
    assert_eq!((binary.method, binary.to.as_deref()), (WorldMethod::FreebsdUpdate, Some("14.1-RELEASE")));
    for (keys, says) in [
        (", sorce = \"/s\"", "did you mean \"src\"?"),
        (", packges = false", "did you mean \"packages\"?"),
        (", to = \"14.1-RELEASE\"", "unknown key"),
        (", method = \"freebsd-update\", src = \"/s\"", "unknown key"),
        (", method = \"freebsd-updates\"", "freebsd-update"),
        (", method = \"freebsd-update\", to = \"14.1-RELEASE-p5\"", "is not a release such as"),
        (", src = \"usr/src\"", "absolute"),
        (", build = \"yes\"", "build"),
    ] {
        let said = world(keys).unwrap_err().to_string();
        assert!(said.contains(says), "{keys}: {said}");
    }
}

#[test]
fn slips_in_checks() {
    insta::assert_snapshot!(errors_of(
        r#"
version = 1
[hosts]
here = { hypervisor = "sim" }
[guests.web]
host = "here"
checks = [
  { kind = "htttp" },
  { kind = "http", tls = "any", path = "index.html" },
  { kind = "tcp" },
  { kind = "imap", messages_min = 1 },
  { kind = "imap", name = "box", login = { user = "a\r\nb", passwordfile = "/x" } },
  { kind = "pop3", mailbox = "INBOX" },
  { kind = "dns", query = "a..b", record = "TXT" },
  { kind = "dns", query = "example.org", record = "MX", name = "http" },
  { kind = "smtp", rcpt = "<x@y>", when = "later", deadline = "soon" },
  { kind = "command", run = "true" },
  { kind = "command", name = "c2", run = [] },
  "imap",
]
"#
    ));
}

#[test]
fn slips_in_hooks() {
    insta::assert_snapshot!(errors_of(
        r#"
version = 1
[hosts]
here = { hypervisor = "sim" }
[[guests.web.hooks]]
name = "neither"
on = "host"
[[guests.web.hooks]]
name = "both"
on = "host"
around = ["clone"]
at = "after-upgrade"
run = ["true"]
[[guests.web.hooks]]
name = "no command"
on = "hosts"
around = ["clone", "verfy"]
[[guests.web.hooks]]
name = "wrong point"
on = "clone"
at = "after-upgrades"
before = ["true"]
run = ["echo", "{orignal}", "awk {print}"]
timeout = "1 minute"
[[guests.web.hooks]]
name = "neither"
on = "clone"
at = "after-upgrade"
run = ["true"]
[guests.web]
host = "here"
[[guests.web.hooks]]
name = "no way back"
on = "host"
at = "volumes"
run = ["true"]
[[guests.web.hooks]]
name = "nothing to lease"
on = "host"
around = ["clone"]
before = ["true"]
lease = "10m"
[[guests.web.hooks]]
name = "too short"
on = "host"
around = ["clone"]
after = ["true"]
lease = "4s"
[[guests.web.hooks]]
name = "not around"
on = "host"
at = "after-clone"
run = ["true"]
lease = "10m"
"#
    ));
}

#[test]
fn a_missing_file_is_named() {
    let error = load(Path::new("/nonexistent/inventory.toml")).unwrap_err();
    assert!(error.to_string().starts_with("read the inventory /nonexistent/inventory.toml: "), "{error}");
}

proptest::proptest! {
    /// Whatever stands in the file: an answer, no panic, and places inside the file.
    #[test]
    fn any_text_gets_an_answer(text in "(version = 1\n)?(\\[+(hosts|guests|defaults)[.a-z]{0,3}\\]+\n)?[ -~\n\u{e9}]{0,80}") {
        if let Err(InventoryError::Invalid(problems)) = at(&[("inventory.toml", &text)]).1 {
            proptest::prop_assert!(problems.iter().all(|problem| problem.line <= text.lines().count() + 1));
        }
    }
}
