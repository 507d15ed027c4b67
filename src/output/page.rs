//! The page of a plan, and the page that is approved. Pure.

use hypervisors::host::{printable, shell_quote};

use super::Style;
use super::format::{WIDTH, about, count, hanging, table, width, wrap};
use super::json::duplicated;
use crate::engine::{Op, Plan, Undo};
use crate::lifecycle::page::{Page, Proposal};
use crate::lifecycle::preflight::{Finding, Verdict};
use crate::steps::Manners;

/// How a page is laid out.
#[derive(Clone, Copy, Debug, Default)]
pub struct Look {
    /// Commands and diffs of each step too.
    pub verbose: bool,
    /// Colours.
    pub style: Style,
}

/// A plan that is only looked at.
pub fn plan(proposal: &Proposal, look: Look) -> String {
    let Proposal { plan, page, findings, manners } = proposal;
    let headline = format!("{}. This plan touches nothing.", page.headline.trim_end_matches('.'));
    let mut text = lines(&headline);
    text.push('\n');
    body(&mut text, page);
    if !findings.is_empty() {
        text.push_str(&preflight(findings, look.style));
        text.push('\n');
    }
    text.push_str(&steps(plan, manners, look));
    text.push_str(&promises(plan));
    text.push_str(&format!("{}  Plan {}.\n", outage(plan), plan.digest()));
    text
}

/// A plan that wants an approval.
pub fn approval(proposal: &Proposal, look: Look) -> String {
    let Proposal { plan, page, findings, manners } = proposal;
    let digest = format!("plan {}", plan.digest());
    let headline = page.headline.trim_end_matches('.');
    let room = WIDTH.saturating_sub(width(headline));
    let mut text = if room > digest.len() + 2 {
        format!("{}{digest:>room$}\n", look.style.bold(&printable(headline)))
    } else {
        format!("{}{digest:>WIDTH$}\n", lines(headline))
    };
    text.push('\n');
    body(&mut text, page);
    let warnings = warnings(findings, look.style);
    if !warnings.is_empty() {
        text.push_str(&format!("{warnings}\n"));
    }
    if look.verbose || page.rows.is_empty() {
        text.push_str(&format!("{}\n", steps(plan, manners, look)));
    }
    let promises = promises(plan);
    if !promises.is_empty() {
        text.push_str(&format!("{promises}\n"));
    }
    let irreversible = (0..plan.steps.len()).filter(|index| plan.irreversible(*index)).count();
    if irreversible > 0 {
        let many = count(irreversible, "step");
        let line = format!("  {many} of {} cannot be taken back", plan.steps.len());
        text.push_str(&format!("{}\n\n", look.style.warn(&line)));
    }
    text
}

fn lines(headline: &str) -> String {
    wrap(&printable(headline), WIDTH).iter().map(|line| format!("{line}\n")).collect()
}

fn body(text: &mut String, page: &Page) {
    let clean = |rows: &[Vec<String>]| -> Vec<Vec<String>> {
        rows.iter().map(|row| row.iter().map(|cell| printable(cell)).collect()).collect()
    };
    let rows: Vec<Vec<String>> = page.rows.iter().map(|row| vec![row.label.clone(), row.text.clone()]).collect();
    for block in [&page.sides, &page.disks, &rows] {
        if !block.is_empty() {
            text.push_str(&table(2, &clean(block)));
            text.push('\n');
        }
    }
}

/// `Preflight: 17 passed, 2 warnings` and what is not as it should be.
pub fn preflight(findings: &[Finding], style: Style) -> String {
    let number = |verdict| findings.iter().filter(|finding| finding.verdict == verdict).count();
    let mut parts = Vec::new();
    if number(Verdict::Refused) > 0 {
        parts.push(format!("{} refused", number(Verdict::Refused)));
    }
    parts.push(format!("{} passed", number(Verdict::Passed)));
    if number(Verdict::Warning) > 0 {
        parts.push(count(number(Verdict::Warning), "warning"));
    }
    format!("Preflight: {}\n{}", parts.join(", "), warnings(findings, style))
}

fn warnings(findings: &[Finding], style: Style) -> String {
    let mut text = String::new();
    for finding in findings.iter().filter(|finding| finding.verdict != Verdict::Passed) {
        text.push_str(&warning(&finding.detail, finding.verdict == Verdict::Refused, style));
        if let Some(remedy) = finding.remedy.as_deref().filter(|remedy| !remedy.is_empty()) {
            text.push_str(&hanging("    ", &format!("help: {}", printable(remedy))));
        }
    }
    text
}

/// A warning's line: `  ! smtp cannot be checked on the clone`; a refusal bears a cross.
pub fn warning(detail: &str, refused: bool, style: Style) -> String {
    let plain = hanging(if refused { "  x " } else { "  ! " }, &printable(detail));
    let sign = if refused { style.bad("x") } else { style.warn("!") };
    plain.replacen(if refused { 'x' } else { '!' }, &sign, 1)
}

/// The table of steps.
fn steps(plan: &Plan, manners: &Manners, look: Look) -> String {
    if plan.steps.is_empty() {
        return "Nothing is left to be done.\n".to_owned();
    }
    let undos: Vec<String> = (0..plan.steps.len()).map(|index| undo(plan, index)).collect();
    let longest = undos.iter().map(|undo| width(undo)).max().unwrap_or(0).clamp(4, 20);
    // "  #  ", two spaces, undo, two spaces, six for the estimate.
    let room = WIDTH - 5 - 2 - longest - 2 - 6;
    let mut text = format!("  #  {:room$}  {:longest$}  {:>6}\n", "step", "undo", "about");
    for (index, step) in plan.steps.iter().enumerate() {
        let title = wrap(&printable(&step.title()), room);
        let undo = wrap(&undos[index], longest);
        for row in 0..title.len().max(undo.len()) {
            let number = if row == 0 { (index + 1).to_string() } else { String::new() };
            let estimate = if row == 0 { about(step.estimate_s) } else { String::new() };
            let cell = |lines: &[String]| lines.get(row).cloned().unwrap_or_default();
            let line = format!("{number:>3}  {:room$}  {:longest$}  {estimate:>6}", cell(&title), cell(&undo));
            text.push_str(line.trim_end());
            text.push('\n');
        }
        if look.verbose {
            details(&mut text, &step.op, manners);
        }
    }
    text
}

/// What is taken back by machines themselves.
fn promises(plan: &Plan) -> String {
    let made = plan.steps.iter().filter(|step| matches!(step.op, Op::Do(_)));
    let leased = made.filter_map(|step| step.op.action().step().leased());
    leased.map(|leased| hanging("  ", &printable(&leased.promise()))).collect()
}

fn details(text: &mut String, op: &Op, manners: &Manners) {
    let step = op.action().step();
    for argv in step.commands(manners) {
        text.push_str(&format!("       $ {}\n", printable(&shell_quote(&argv))));
    }
    if let (Some(diff), Op::Do(_)) = (step.diff(), op) {
        for line in diff.lines() {
            text.push_str(&format!("       {}\n", printable(line)));
        }
    }
}

fn undo(plan: &Plan, index: usize) -> String {
    let step = &plan.steps[index];
    match (step.undo, &step.op) {
        (_, Op::Undo(..)) | (Undo::Nothing, _) => "-".to_owned(),
        (Undo::Own, Op::Do(action)) => printable(&action.step().undo_title()),
        (Undo::WithClone, _) => {
            duplicated(plan).map_or("goes with the clone".to_owned(), |step| format!("goes with {step}"))
        }
        (Undo::None, _) => "IRREVERSIBLE".to_owned(),
    }
}

/// `Outage of mercure: none.`
pub fn outage(plan: &Plan) -> String {
    if plan.outages.is_empty() {
        return format!("Outage of {}: none.", plan.guest);
    }
    let all: Vec<String> = plan.outages.iter().map(|outage| format!("about {}", about(outage.expected_s))).collect();
    format!("Outage of {}: {}.", plan.guest, all.join(", then "))
}
