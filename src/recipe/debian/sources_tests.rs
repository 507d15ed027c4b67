//! Tests of the sources rewrite: real files, the shapes of sources.list(5), and properties.
#![expect(clippy::unwrap_used, reason = "tests")]

use proptest::prelude::*;

use super::*;

fn release(name: &str) -> Release {
    Release::named(name).unwrap()
}

fn to_trixie(format: Format, text: &str) -> Rewrite {
    let out = rewrite(format, text, release("bookworm"), release("trixie"));
    let again = rewrite(format, &out.text, release("bookworm"), release("trixie"));
    assert_eq!(again.text, out.text, "a second pass must change nothing");
    assert_eq!(again.notes, [], "a second pass has nothing to tell");
    out
}

#[test]
fn the_installers_file_changes_in_its_suites_only() {
    let text = include_str!("../fixtures/sources-debian-12.list");
    let out = to_trixie(Format::OneLine, text);
    assert_eq!(out.notes.len(), 6);
    let expected: String = text
        .split_inclusive('\n')
        .map(|line| if line.starts_with('#') { line.to_owned() } else { line.replace("bookworm", "trixie") })
        .collect();
    assert_eq!(out.text, expected);
}

#[test]
fn deb822_of_the_installer_goes_on_to_forky() {
    let text = include_str!("../fixtures/sources-debian-13.sources");
    let out = rewrite(Format::Deb822, text, release("trixie"), release("forky"));
    assert_eq!(out.text, text.replace("trixie", "forky"));
    assert_eq!(out.notes.len(), 2);
    assert_eq!(out.notes[1].line, 7);
    assert_eq!(to_trixie(Format::Deb822, text).text, text);
}

#[test]
fn the_manuals_examples() {
    insta::assert_snapshot!(to_trixie(Format::OneLine, include_str!("../fixtures/sources-manual.list")).text);
    insta::assert_snapshot!(to_trixie(Format::Deb822, include_str!("../fixtures/sources-manual.sources")).text);
}

#[test]
fn third_parties_backports_and_cdroms_are_disabled_with_their_place() {
    let text = "deb http://deb.example/debian bookworm main\r\n\
                deb http://deb.example/debian bookworm-backports main\r\n\
                deb [arch=amd64 signed-by=/etc/apt/keyrings/x.gpg] https://u:secret@apt.example/linux/debian bookworm stable # x\r\n\
                deb cdrom:[Debian GNU/Linux 12 _Bookworm_ - DVD]/ bookworm main\r\n\
                deb http://apt.example/php/ bookworm main\r\n\
                deb [signed-by=/etc/apt/keyrings/z.gpg] http://apt.example/zabbix/debian bookworm main";
    let out = to_trixie(Format::OneLine, text);
    let lines: Vec<&str> = out.text.split("\r\n").collect();
    assert_eq!(lines[0], "deb http://deb.example/debian trixie main");
    assert!(lines[1..].iter().all(|line| line.starts_with("# disabled for the upgrade to trixie: deb ")));
    assert_eq!(lines.len(), 6);
    assert_eq!(out.notes[2].line, 3);
    assert_eq!(out.notes[2].why, "third party");
    assert_eq!(out.notes[2].entry, "https://apt.example/linux/debian bookworm");
    assert_eq!(out.notes[1].why, "backports of the old release");
}

#[test]
fn buster_security_gets_its_new_name_and_firmware_is_split_off() {
    let buster = "deb http://security.example/ buster/updates main contrib non-free\n";
    let out = rewrite(Format::OneLine, buster, release("buster"), release("bullseye"));
    assert_eq!(out.text, "deb http://security.example/ bullseye-security main contrib non-free\n");
    let out = rewrite(Format::OneLine, &out.text, release("bullseye"), release("bookworm"));
    let expected = "deb http://security.example/ bookworm-security main contrib non-free non-free-firmware\n";
    assert_eq!(out.text, expected);
    assert_eq!(rewrite(Format::OneLine, expected, release("bullseye"), release("bookworm")).text, expected);
    let stanza = "Types: deb\nURIs: http://deb.example/debian\nSuites: bullseye\nComponents: main\n non-free\n";
    let out = rewrite(Format::Deb822, stanza, release("bullseye"), release("bookworm"));
    assert_eq!(out.text, stanza.replace("bullseye", "bookworm").replace("non-free", "non-free non-free-firmware"));
}

#[test]
fn folded_fields_comments_and_disabled_stanzas() {
    let text = "# head\ntypes: deb\n# http://deb.example/archive bookworm\nURIS: http://deb.example/debian\n\
                Suites:\n bookworm\n# bookworm-backports\n bookworm-backports\n\tbookworm-updates\n\
                Components: main\n\n\
                Types: deb\nURIs: https://apt.example/x\nSuites: nodistro\nComponents: main\nEnabled: yes\n\n\
                Enabled: NO\nTypes: deb\nURIs: http://deb.example/debian\nSuites: bookworm\nComponents: main\n\n\
                Types: deb\nURIs: mirror+file:///etc/apt/mirrors/debian.list\nSuites: bookworm-backports bookworm\n\
                Components: main\n";
    let expected = "# head\ntypes: deb\n# http://deb.example/archive bookworm\nURIS: http://deb.example/debian\n\
                Suites:\n trixie\n# bookworm-backports\n\ttrixie-updates\n\
                Components: main\n\n\
                Types: deb\nURIs: https://apt.example/x\nSuites: nodistro\nComponents: main\nEnabled: no\n\n\
                Enabled: NO\nTypes: deb\nURIs: http://deb.example/debian\nSuites: bookworm\nComponents: main\n\n\
                Types: deb\nURIs: mirror+file:///etc/apt/mirrors/debian.list\nSuites: trixie\n\
                Components: main\n";
    assert_eq!(to_trixie(Format::Deb822, text).text, expected);
    let alone = "Types: deb\r\nURIs: http://deb.example/debian\r\nSuites: bookworm-backports\r\nComponents: main\r\n";
    assert_eq!(to_trixie(Format::Deb822, alone).text, format!("Enabled: no\r\n{alone}"));
}

#[test]
fn names_apt_ignores_have_no_format() {
    assert_eq!(Format::of("/etc/apt/sources.list"), Some(Format::OneLine));
    assert_eq!(Format::of("/etc/apt/sources.list.d/debian.sources"), Some(Format::Deb822));
    for ignored in ["/x/debian.sources.save", "/x/a b.list", "/x/list", "/x/.list", "/x/docker.list~"] {
        assert_eq!(Format::of(ignored), None, "{ignored}");
    }
}

#[test]
fn entries_are_found_with_their_lines() {
    let found = entries(Format::OneLine, include_str!("../fixtures/sources-debian-12.list"));
    assert_eq!(found.len(), 6);
    assert_eq!((found[0].line, found[0].suites[0].as_str()), (3, "bookworm"));
    let found = entries(Format::Deb822, include_str!("../fixtures/sources-debian-13.sources"));
    assert_eq!(found[1].uris, ["http://security.example/debian-security/"]);
}

fn line() -> impl Strategy<Value = String> {
    prop_oneof![
        "(deb|deb-src) (\\[ ?arch=amd64 ?\\] )?http://deb.example/(debian|debian-security|php)/? \
         (bookworm|stable|trixie|sid|bullseye|nodistro)(-security|-updates|-backports|/updates|/)?( main| contrib| non-free){0,3}(  # bookworm)?",
        "(Types|URIs|Suites|Components|Enabled|Signed-By): ?(deb|http://deb.example/debian|bookworm|bookworm-backports|main|yes)( stable| main)?",
        " (bookworm|bookworm-updates|main|http://deb.example/debian)",
        "#.{0,20}",
        "",
        ".{0,30}",
    ]
}

proptest! {
    #[test]
    fn a_second_pass_changes_nothing(lines in prop::collection::vec(line(), 0..20), crlf: bool, last: bool) {
        let end = if crlf { "\r\n" } else { "\n" };
        let mut text = lines.join(end);
        if last { text.push_str(end); }
        for format in [Format::OneLine, Format::Deb822] {
            let once = rewrite(format, &text, release("bookworm"), release("trixie"));
            let twice = rewrite(format, &once.text, release("bookworm"), release("trixie"));
            prop_assert_eq!(&twice.text, &once.text);
            prop_assert!(twice.notes.is_empty(), "{:?}", twice.notes);
            prop_assert_eq!(once.notes.is_empty(), once.text == text);
        }
    }

    #[test]
    fn lines_without_a_suite_stay(lines in prop::collection::vec(line(), 0..20)) {
        let text = lines.join("\n");
        let out = rewrite(Format::OneLine, &text, release("bookworm"), release("trixie"));
        let touched: Vec<usize> = out.notes.iter().map(|note| note.line).collect();
        for (index, (old, new)) in text.split('\n').zip(out.text.split('\n')).enumerate() {
            prop_assert!(old == new || touched.contains(&(index + 1)), "{old:?} {new:?}");
            let ending = |line: &str| line.split_whitespace().last().map(str::to_owned);
            prop_assert!(old == new || ending(old) == ending(new) || new.contains("-security") || new.ends_with("trixie") || new.contains("trixie-"));
        }
        prop_assert_eq!(text.matches('\n').count(), out.text.matches('\n').count());
    }
}
