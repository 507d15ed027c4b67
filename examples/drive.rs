use std::sync::Arc;
use upgradectl::lifecycle::{app::*, page::Proposal, state::Verb};
struct F;
impl Front for F {
    fn show(&self, p: &Proposal, _: bool) {
        for r in &p.page.rows {
            println!("  {} {}", r.label, r.text)
        }
        for (i, s) in p.plan.steps.iter().enumerate() {
            println!("  {} {} | undo: {}", i + 1, s.title(), s.op.action().step().undo_title());
        }
        for f in &p.findings {
            println!("  {:?}", f)
        }
    }
    fn confirm(&self, _: &str) -> Option<bool> {
        Some(true)
    }
    fn ask(&self, _: &str) -> Option<bool> {
        None
    }
}
#[tokio::main]
async fn main() {
    let a: Vec<String> = std::env::args().collect();
    let verb = match a[1].as_str() {
        "clone" => Verb::Clone,
        "upgrade" => Verb::Upgrade,
        "verify" => Verb::Verify,
        "promote" => Verb::Promote,
        "rollback" => Verb::Rollback,
        "commit" => Verb::Commit,
        "abort" => Verb::Abort,
        _ => Verb::Resume,
    };
    let state: std::path::PathBuf = std::env::var("UPGRADECTL_STATE").unwrap().into();
    let app = App {
        inventory: upgradectl::inventory::load(std::env::var("UPGRADECTL_INVENTORY").unwrap().as_ref()).unwrap(),
        scratch: state.join("run"),
        state,
        sink: Arc::new(|e| {
            let t = serde_json::to_string(e).unwrap();
            if !t.contains("\"event\":\"progress\"") && !t.contains("\"event\":\"command\"") {
                println!("{}", &t[..t.len().min(900)])
            }
        }),
        front: Arc::new(F),
        stop: Arc::default(),
    };
    let f = app.change(verb, &a[2], &Options { yes: true, dry_run: a.len() > 3, ..Options::default() }).await;
    println!("=> code {} state {:?} outage {:.2} {:#?}", f.code, f.state, f.outage_s, f.error);
}
