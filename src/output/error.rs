//! A failure for people: what failed, each cause once, the place, the remedy.

use hypervisors::host::printable;

use super::Style;
use super::format::{WIDTH, wrap};
use crate::engine::ErrorInfo;

/// The whole block; lines of a diff stay as they are, indented.
pub fn render(error: &ErrorInfo, style: Style) -> String {
    let mut text = String::new();
    let head = format!("failed to {}", printable(&error.message));
    for (number, line) in wrap(&head, WIDTH - 7).iter().enumerate() {
        let start = if number == 0 { style.bad("error:") } else { "      ".to_owned() };
        text.push_str(&format!("{start} {line}\n"));
    }
    let mut told: Vec<&str> = vec![&error.message];
    for cause in &error.causes {
        if cause.is_empty() || told.contains(&cause.as_str()) {
            continue;
        }
        told.push(cause);
        labelled(&mut text, "cause:", cause);
    }
    if let Some(place) = error.place.as_deref().filter(|place| !place.is_empty()) {
        labelled(&mut text, "place:", place);
    }
    if let Some(help) = error.help.as_deref().filter(|help| !help.is_empty()) {
        labelled(&mut text, "help: ", help);
    }
    text
}

/// A remedy by itself.
pub fn help(help: &str) -> String {
    let mut text = String::new();
    for (number, line) in help.lines().enumerate() {
        let start = if number == 0 { "help: " } else { "      " };
        text.push_str(&format!("{start}{}\n", printable(line)));
    }
    text
}

fn labelled(text: &mut String, label: &str, value: &str) {
    let indent = " ".repeat(9);
    let several = value.trim_end().lines().count() > 1;
    let mut first = true;
    for line in value.trim_end().lines() {
        // Lines of a diff or of a listing mean something by their form.
        let lines = if several { vec![printable_line(line)] } else { wrap(&printable(line), WIDTH - 9) };
        for line in lines {
            let start = if first { format!("  {label} ") } else { indent.clone() };
            text.push_str(format!("{start}{line}").trim_end());
            text.push('\n');
            first = false;
        }
    }
}

fn printable_line(line: &str) -> String {
    printable(&line.replace('\t', "    "))
}
