//! What the operator reads before approving: data; `output` lays it out.

use serde::{Deserialize, Serialize};

use super::preflight::Finding;
use crate::engine::Plan;
use crate::steps::Manners;

/// One labelled line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// Label.
    pub label: String,
    /// Text.
    pub text: String,
}

impl Row {
    /// A labelled line.
    pub fn new(label: &str, text: impl Into<String>) -> Self {
        Self { label: label.to_owned(), text: text.into() }
    }
}

/// The page of a plan.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page {
    /// First line.
    pub headline: String,
    /// Original and clone: role, address, hardware address, remark.
    pub sides: Vec<Vec<String>>,
    /// Disks: name, volume, what becomes of it.
    pub disks: Vec<Vec<String>>,
    /// What is gained, lost, left, in the order of importance.
    pub rows: Vec<Row>,
    /// The word to type before going on; none: the verb asks nothing.
    pub confirm: Option<String>,
}

impl Page {
    /// A page with a first line.
    pub fn new(headline: String) -> Self {
        Self { headline, ..Self::default() }
    }
}

/// A plan as it is shown and approved.
#[derive(Clone, Debug)]
pub struct Proposal {
    /// The plan.
    pub plan: Plan,
    /// Its page.
    pub page: Page,
    /// What was looked at.
    pub findings: Vec<Finding>,
    /// How commands are typed for the hosts concerned.
    pub manners: Manners,
}
