//! What `lvs --reportformat json` prints, read. One report holds a volume group and all its volumes, hidden ones
//! included, so that one invocation tells all there is to know.

use serde::Deserialize;

use super::attr::{Attr, Kind};
use super::name;
use crate::Mark;

/// The fields that are asked for.
pub const FIELDS: &str = "lv_uuid,vg_name,lv_name,lv_attr,lv_size,origin,pool_lv,data_percent,metadata_percent,lv_tags,\
    chunk_size,vg_extent_size,vg_free,vg_attr";

/// A volume group with its volumes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// Size of an extent.
    pub extent_bytes: u64,
    /// Bytes in free extents.
    pub free_bytes: u64,
    /// Other hosts may have it open too: clustered, or shared by lock manager.
    pub shared: bool,
    /// Parts of it are missing.
    pub partial: bool,
    /// The volumes, hidden ones too.
    pub volumes: Vec<Lv>,
}

/// A logical volume.
#[derive(Clone, Debug, PartialEq)]
pub struct Lv {
    /// UUID.
    pub uuid: String,
    /// Name, without the brackets that stand around a hidden one's.
    pub name: String,
    /// A part of another volume, or a snapshot being merged.
    pub hidden: bool,
    /// Attributes.
    pub attr: Attr,
    /// Bytes; of a thick snapshot: of its copy-on-write area.
    pub size_bytes: u64,
    /// Name of its origin.
    pub origin: Option<String>,
    /// Name of its thin pool.
    pub pool: Option<String>,
    /// How full it is; of an origin: what a merge has still to copy.
    pub data_percent: Option<f64>,
    /// How full a pool's metadata are.
    pub metadata_percent: Option<f64>,
    /// Tags.
    pub tags: Vec<String>,
    /// Chunk size of a snapshot or a pool.
    pub chunk_bytes: u64,
}

impl Lv {
    /// The marks among its tags.
    pub fn marks(&self) -> Vec<Mark> {
        self.tags.iter().filter_map(|tag| name::mark(tag)).collect()
    }
    /// Whether a run made it.
    pub fn is_of(&self, run: &str) -> bool {
        self.marks().iter().any(|mark| mark.run == run)
    }
    /// In a thin pool.
    pub fn is_thin(&self) -> bool {
        self.pool.is_some()
    }
    /// One that a guest can stand on: neither pool nor part of something.
    pub fn is_volume(&self) -> bool {
        !matches!(self.attr.kind, Kind::Pool | Kind::Other(_)) && (!self.hidden || self.attr.merging())
    }
}

impl Report {
    /// A volume by its name.
    pub fn volume(&self, name: &str) -> Option<&Lv> {
        self.volumes.iter().find(|lv| lv.name == name && lv.is_volume())
    }
    /// A pool by its name.
    pub fn pool(&self, name: &str) -> Option<&Lv> {
        self.volumes.iter().find(|lv| lv.name == name && lv.attr.kind == Kind::Pool)
    }
    /// The snapshots of a volume.
    pub fn snapshots<'a>(&'a self, origin: &'a str) -> impl Iterator<Item = &'a Lv> {
        self.volumes.iter().filter(move |lv| lv.origin.as_deref() == Some(origin))
    }
}

#[derive(Deserialize)]
struct Outer {
    report: Vec<Section>,
}
#[derive(Deserialize)]
struct Section {
    #[serde(default)]
    lv: Vec<Row>,
    // Where a field is of segments, some releases name the list after them.
    #[serde(default)]
    seg: Vec<Row>,
}
#[derive(Deserialize)]
struct Row {
    lv_uuid: String,
    lv_name: String,
    lv_attr: String,
    lv_size: String,
    origin: String,
    pool_lv: String,
    data_percent: String,
    metadata_percent: String,
    lv_tags: String,
    chunk_size: String,
    vg_extent_size: String,
    vg_free: String,
    vg_attr: String,
}

/// Reads a report of one volume group.
pub fn parse(text: &str) -> Result<Report, String> {
    let outer: Outer = serde_json::from_str(text).map_err(|error| format!("lvs printed no report: {error}"))?;
    let mut report = Report::default();
    for row in outer.report.into_iter().flat_map(|section| section.lv.into_iter().chain(section.seg)) {
        report.extent_bytes = number(&row.vg_extent_size)?;
        report.free_bytes = number(&row.vg_free)?;
        report.shared = matches!(row.vg_attr.chars().nth(5), Some('c' | 's'));
        report.partial = row.vg_attr.chars().nth(3) == Some('p');
        let lv = volume(row)?;
        // A volume of several segments has a row for each.
        if !report.volumes.iter().any(|seen| seen.uuid == lv.uuid) {
            report.volumes.push(lv);
        }
    }
    Ok(report)
}

fn volume(row: Row) -> Result<Lv, String> {
    let inner = |name: &str| name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).map(str::to_owned);
    let named = |name: String| inner(&name).or((!name.is_empty()).then_some(name));
    let hidden = row.lv_name.starts_with('[');
    Ok(Lv {
        uuid: row.lv_uuid,
        name: named(row.lv_name).unwrap_or_default(),
        hidden,
        attr: row.lv_attr.parse()?,
        size_bytes: number(&row.lv_size)?,
        origin: named(row.origin),
        pool: named(row.pool_lv),
        data_percent: percent(&row.data_percent)?,
        metadata_percent: percent(&row.metadata_percent)?,
        tags: row.lv_tags.split(',').filter(|tag| !tag.is_empty()).map(str::to_owned).collect(),
        chunk_bytes: number(&row.chunk_size)?,
    })
}

fn number(text: &str) -> Result<u64, String> {
    text.trim().parse().map_err(|_| format!("{text:?} is not a number of bytes"))
}

fn percent(text: &str) -> Result<Option<f64>, String> {
    match text.trim() {
        "" => Ok(None),
        text => text.parse().map(Some).map_err(|_| format!("{text:?} is not a percentage")),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::Role;

    /// Printed by lvm2 2.03.16 for [`super::super::command::inventory`] with some more fields.
    const RECORDED: &str = include_str!("../../../tests/fixtures/lvm2-2.03.16/lvs.json");

    #[test]
    fn a_recorded_report_is_read() {
        let report = parse(RECORDED).unwrap();
        assert_eq!((report.extent_bytes, report.free_bytes), (4 << 20, 507_510_784));
        assert!(!report.shared && !report.partial);
        let names: Vec<&str> = report.volumes.iter().filter(|lv| lv.is_volume()).map(|lv| lv.name.as_str()).collect();
        assert_eq!(names, ["o", "s1", "t", "ts"]);
        let snapshot = report.volume("s1").unwrap();
        assert_eq!(
            (snapshot.origin.as_deref(), snapshot.size_bytes, snapshot.chunk_bytes),
            (Some("o"), 109_051_904, 4096)
        );
        assert_eq!(snapshot.marks(), [Mark { run: "a--b".into(), role: Role::Clone }]);
        assert!(snapshot.is_of("a--b") && !snapshot.is_of("a") && !report.volume("o").unwrap().is_of("a--b"));
        let thin = report.volume("ts").unwrap();
        assert_eq!((thin.origin.as_deref(), thin.pool.as_deref(), thin.is_thin()), (Some("t"), Some("pool"), true));
        assert_eq!(report.pool("pool").unwrap().metadata_percent, Some(10.94));
        assert!(report.volume("pool").is_none() && report.volume("pool_tdata").is_none());
        assert_eq!(report.snapshots("o").count(), 1);
    }

    #[test]
    fn hostile_and_broken_reports_are_refused() {
        assert_eq!(parse(r#"{"report":[{"lv":[]}]}"#).unwrap(), Report::default());
        for bad in ["", "[]", r#"{"report":[{"lv":[{}]}]}"#] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        assert!(parse(&RECORDED.replace("\"owi-a-s---\"", "\"?\"")).is_err());
        assert!(parse(&RECORDED.replace("\"104857600\"", "\"100m\"")).is_err());
    }

    #[test]
    fn a_volume_of_two_segments_is_one() {
        let doubled = RECORDED.replacen("\"lv\": [", "\"seg\": [", 1);
        let row = RECORDED.lines().find(|line| line.contains("\"lv_name\":\"o\"")).unwrap();
        let doubled = doubled.replace(row, &format!("{row}\n{row}"));
        assert_eq!(parse(&doubled).unwrap(), parse(RECORDED).unwrap());
    }
}
