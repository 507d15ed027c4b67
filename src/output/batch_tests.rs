#![expect(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::batch::item::Past;
use crate::batch::schedule::Tally;

fn at_work(guest: &str, longest: bool) -> AtWork {
    AtWork { guest: guest.into(), verb: Verb::Clone, since: Instant::now(), expected_s: 60.0, longest }
}

#[test]
fn the_table_that_moves_fits_eighty_columns() {
    let step =
        |detail: &str| Step { head: "[3/9] ".into(), detail: detail.into(), since: Instant::now(), estimate_s: 320.0 };
    let inner = Inner {
        steps: BTreeMap::from([(
            "ServerA".to_owned(),
            step("transfer /usr 41 %, 12 MiB/s, and so much more to tell that it does not fit here"),
        )]),
        overview: Overview {
            wave: (2, 3),
            total: Tally { guests: 40, ended: 12, well: 11, failed: 1 },
            at_work: vec![at_work("ServerA", true), at_work("a-guest-with-quite-a-long-name", false)],
            elsewhere: 1,
            left_s: 5400.0,
        },
        since: Some(Instant::now()),
    };
    let text = lines("consolidation", &inner, 79);
    assert!(text.lines().all(|line| width(line) <= 79), "{text}");
    insta::assert_snapshot!(text);
}

#[test]
fn the_report_tells_what_failed_and_how_to_go_on() {
    let item = |guest: &str, outcome, error: Option<ErrorInfo>| ItemReport {
        guest: guest.into(),
        outcome,
        aborted: false,
        run: Some(format!("{guest}--k3f9")),
        state: Some("verified".into()),
        verbs: vec![Past { verb: Verb::Clone, code: 0, elapsed_s: 61.0, outage_s: 0.0 }],
        elapsed_s: 3723.0,
        outage_s: if guest == "web1" { 12.34 } else { 0.0 },
        checks: Some("4 passed, 1 held".into()),
        conffiles: 3,
        error,
        next: vec![format!("upgradectl promote {guest}"), format!("upgradectl abort {guest}")],
    };
    let error = ErrorInfo {
        code: 8,
        message: "upgrade web2".into(),
        causes: vec!["dpkg: error\x1b[2J | processing".into(), "two\nlines".into()],
        place: None,
        help: Some("free some space".into()),
    };
    let left = ErrorInfo { causes: vec!["it comes after web2, which did not end well".into()], ..error.clone() };
    let told = Report {
        schema: 1,
        batch: "night".into(),
        verbs: vec!["clone", "upgrade"],
        by: "root@here".into(),
        opened: "2026-11-26T22:00:00Z".parse().unwrap(),
        ended: Some("2026-11-26T23:30:00Z".parse().unwrap()),
        guests: 3,
        well: 1,
        failed: 1,
        left: 1,
        items: vec![
            item("web1", Stands::Well, None),
            item("web2", Stands::Failed, Some(error)),
            ItemReport { run: None, state: None, next: Vec::new(), ..item("web3", Stands::Left, Some(left)) },
        ],
    };
    let text = report(&told);
    assert!(!text.contains('\x1b'));
    let text = text.lines().map(|line| if line.contains("Begun") { "(times)" } else { line }).collect::<Vec<_>>();
    insta::assert_snapshot!(text.join("\n"));
    insta::assert_snapshot!(closing(&told, Some("stopped"), Path::new("/s/report-1.md"), Path::new("night.toml")));
}
