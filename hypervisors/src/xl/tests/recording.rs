//! What was recorded on Xen 4.17 (fixture `xl.txt`): our readers read it, and the Xen in memory answers the same.

use super::fake::FakeXen;
use crate::Power;
use crate::xl::domains;

const RECORDED: &str = include_str!("../../../tests/fixtures/xen-4.17/xl.txt");

/// `$ command`, what it printed, `[exit N]`.
struct Case {
    section: usize,
    command: String,
    printed: String,
    status: i32,
}

fn cases() -> Vec<Case> {
    let (mut cases, mut open, mut section) = (Vec::new(), None::<(String, String)>, 0);
    for line in RECORDED.lines() {
        if line.starts_with("##### ") {
            section += 1;
        }
        if let Some(command) = line.strip_prefix("$ ") {
            open = Some((command.to_owned(), String::new()));
        } else if let Some(status) = line.strip_prefix("[exit ").and_then(|rest| rest.strip_suffix(']')) {
            if let Some((command, printed)) = open.take() {
                cases.push(Case { section, command, printed, status: status.parse().unwrap() });
            }
        } else if let Some((_, printed)) = &mut open {
            *printed += line;
            printed.push('\n');
        }
    }
    cases
}

#[test]
fn the_recorded_free_memory_is_read() {
    let cases = cases();
    let info = cases.iter().find(|case| case.command.starts_with("xl info")).unwrap();
    assert_eq!(crate::xl::parse::free_memory(&info.printed), Some(954 << 20));
    for other in ["", "free_memory : much\n", "free_memory: 99999999999999999\n", "sharing_freed_memory : 0\n"] {
        assert_eq!(crate::xl::parse::free_memory(other), None, "{other}");
    }
}

#[test]
fn every_recorded_list_is_read() {
    let cases = cases();
    let lists: Vec<_> = cases.iter().filter(|case| case.command == "xl list").collect();
    assert!(lists.len() >= 15, "{}", lists.len());
    for case in &lists {
        // what another program printed into it is not xl's
        let text: String = case
            .printed
            .lines()
            .filter(|line| !["user", "sys"].iter().any(|word| line.starts_with(word)) && !line.is_empty())
            .map(|line| format!("{line}\n"))
            .collect();
        let domains = domains::table(&text).unwrap();
        assert!(domains.iter().all(|domain| domain.id > 0 && domain.name.starts_with('g')), "{domains:?}");
    }
    let one = |wanted: &str| {
        let line = RECORDED.lines().find(|line| line.starts_with('g') && line.contains(wanted)).unwrap();
        domains::table(&format!("Name\n{line}\n")).unwrap().remove(0)
    };
    assert_eq!((one("-b----").power, one("-b----").down), (Power::On, false));
    assert_eq!((one("--ps--").power, one("--ps--").down), (Power::On, true), "shut down, and still there");
    let made = one("     0     0     --p---");
    assert_eq!((made.power, made.memory_mib), (Power::On, 0), "being made is not paused");
    let spaces = "Name\na guest of blanks                            7   512     1     --p---       0.0\n";
    let domain = domains::table(spaces).unwrap().remove(0);
    assert_eq!((domain.name.as_str(), domain.id, domain.power), ("a guest of blanks", 7, Power::Paused));
    assert!(domains::table("xencall: error\n").is_err());
    assert!(domains::table("Name\nwhat is this\n").is_err());
}

#[test]
fn the_recorded_long_list_is_read() {
    let cases = cases();
    let case = cases.iter().find(|case| case.command == "xl list -l g1 | head -90").unwrap();
    let found = domains::details(&case.printed).unwrap().remove(0);
    assert_eq!((found.id, found.name.as_str()), (1, "g1"));
    assert_eq!(found.uuid.as_deref(), Some("14a7eee2-64f5-4381-9ab2-eba71f1727fc"));
    assert_eq!(found.disks, [("/dev/vg0/g1-disk".into(), "xvda".to_owned(), false)]);
    assert_eq!(found.nics, [(Some("00:16:3e:00:00:02".parse().unwrap()), "xenbr0".to_owned())]);
    assert_eq!(domains::details("").unwrap(), []);
    assert!(domains::details("[{").is_err());
}

#[test]
fn libxls_reasons_are_told_without_what_follows_from_them() {
    let cases = cases();
    let reason = |file: &str| {
        let command = format!("xl create {file}");
        let case = cases.iter().find(|case| case.command == command && case.status != 0).unwrap();
        let (why, help) = domains::reason(&case.printed);
        format!("{why} | {}", help.unwrap_or("-"))
    };
    insta::assert_snapshot!(
        ["/etc/xen/g1.cfg", "/etc/xen/gx.cfg", "/etc/xen/gm.cfg", "/etc/xen/gy.cfg", "/nonexistent.cfg", "/tmp/bad.cfg"].map(reason).join("\n"),
        @r#"
    Domain 2:Domain with name "g1" already exists. | xl list shows it; it was not started here
    Disk vdev=xvda failed to stat: /dev/vg0/nope: No such file or directory | is the volume there and active? lvs, lvchange -ay
    xc_dom_boot_mem_init: can't allocate low memory for domain: Out of memory | give the guest less memory, or dom0: xl list, xl info, xl mem-set Domain-0
    script: Device /dev/dm-7 is mounted in a guest domain, and so cannot be mounted now. | another guest has it open: xl block-list
    Failed to read config file: /nonexistent.cfg: No such file or directory | -
    /tmp/bad.cfg:1: config parsing error near `"bad': lexical error | -
    "#);
}

/// The world of section 1, and what was asked of it.
#[test]
fn the_xen_in_memory_answers_as_the_recorded_one() {
    let cases = cases();
    let g1 = &cases.iter().find(|case| case.command == "cat /etc/xen/g1.cfg").unwrap().printed;
    let xen = FakeXen::new();
    xen.with(|state| {
        state.devices.insert("/dev/vg0/g1-disk".into(), "dm-0".into());
        state.files.insert("/etc/xen/g1.cfg".into(), g1.clone());
        let other = |name: &str| g1.replace("\"g1\"", &format!("{name:?}"));
        state.files.insert("/etc/xen/gx.cfg".into(), other("gx").replace("g1-disk", "nope"));
        state.files.insert("/etc/xen/gm.cfg".into(), other("gm").replace("memory = 512", "memory = 99999"));
        state.files.insert("/tmp/bad.cfg".into(), "name = \"bad\n".into());
    });
    assert_eq!(xen.xl(&["create", "/etc/xen/g1.cfg"]).0, 0);
    let mut held = 0;
    for case in cases.iter().filter(|case| case.section == 1 && case.command.starts_with("xl ")) {
        let words: Vec<&str> = case.command.split(' ').skip(1).collect();
        let same = match words.as_slice() {
            // times differ, and lists are cut or hold more than is played here
            ["list"] => {
                let seen = domains::table(&xen.xl(&words).1).unwrap();
                seen == domains::table(&case.printed).unwrap()
            }
            ["list", "-l", "g1", ..] => {
                let (seen, recorded) = (xen.xl(&words[..3]), domains::details(&case.printed).unwrap());
                let mut seen = domains::details(&seen.1).unwrap();
                seen[0].uuid.clone_from(&recorded[0].uuid);
                seen == recorded
            }
            ["list", "-l"] | ["create", "-n", _] | ["info" | "vcpu-list" | "block-list" | "network-list", ..] => {
                continue;
            }
            [.., "|", "head", _] => continue,
            words => xen.xl(words) == (case.status, case.printed.clone()),
        };
        assert!(
            same,
            "$ xl {}: recorded {} {:?}, played {:?}",
            words.join(" "),
            case.status,
            case.printed,
            xen.xl(&words)
        );
        held += 1;
    }
    assert!(held >= 20, "only {held} cases were held");

    // a disk that another guest has
    let gy = cases.iter().find(|case| case.command == "xl create /etc/xen/gy.cfg").unwrap();
    xen.with(|state| {
        state.next_id = 15;
        state.devices.insert("/dev/vg0/g1-disk".into(), "dm-7".into());
        state.files.insert("/etc/xen/gy.cfg".into(), g1.replace("\"g1\"", "\"gy\""));
    });
    assert_eq!(xen.xl(&["create", "/etc/xen/gy.cfg"]), (gy.status, gy.printed.clone()));
}
