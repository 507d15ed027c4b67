//! What the book and the README say is held to the project: links lead somewhere, every page is in the summary, whole
//! inventories load.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::path::{Path, PathBuf};

/// README, changelog, and every Markdown file below `docs/`.
fn pages() -> Vec<(PathBuf, String)> {
    fn walk(folder: &Path, pages: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, pages);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                pages.push(path);
            }
        }
    }
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut pages = vec![top.join("README.md"), top.join("CHANGELOG.md"), top.join("integration/README.md")];
    walk(&top.join("docs"), &mut pages);
    let read = |page: PathBuf| (page.clone(), std::fs::read_to_string(page).unwrap());
    pages.into_iter().map(read).collect()
}

/// Targets of `[text](target)` outside of code.
fn links(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut code = false;
    for line in text.lines() {
        code ^= line.starts_with("```");
        if !code {
            let targets = line.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
            found.extend(targets.map(|(target, _)| target.to_owned()));
        }
    }
    found
}

/// The anchors of a page: its headings as mdBook names them.
fn anchors(text: &str) -> Vec<String> {
    let name = |line: &str| {
        let title = line.trim_start_matches('#').trim().to_lowercase();
        let kept = title.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    text.lines().filter(|line| line.starts_with('#')).map(name).collect()
}

#[test]
fn links_lead_somewhere() {
    let mut dead = Vec::new();
    for (page, text) in pages() {
        for link in links(&text) {
            let (target, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let path = if target.is_empty() { page.clone() } else { page.parent().unwrap().join(target) };
            let sound = path.exists()
                && (anchor.is_empty()
                    || anchors(&std::fs::read_to_string(&path).unwrap()).iter().any(|name| name == anchor));
            if !sound {
                dead.push(format!("{}: {link}", page.display()));
            }
        }
    }
    assert!(dead.is_empty(), "dead links:\n{}", dead.join("\n"));
}

#[test]
fn every_page_is_in_the_summary() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/src");
    let summary = std::fs::read_to_string(source.join("SUMMARY.md")).unwrap();
    let listed: Vec<PathBuf> = links(&summary).iter().map(|link| source.join(link)).collect();
    let missing: Vec<PathBuf> = pages()
        .into_iter()
        .map(|(page, _)| page)
        .filter(|page| page.starts_with(&source) && !page.ends_with("SUMMARY.md") && !listed.contains(page))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn whole_inventories_of_the_book_load() {
    let mut tried = 0;
    for (page, text) in pages() {
        for block in text.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap()) {
            if !block.starts_with("version = 1") || block.contains("[batch]") {
                continue;
            }
            let directory = tempfile::tempdir().unwrap();
            let file = directory.path().join("inventory.toml");
            std::fs::write(&file, block).unwrap();
            if let Err(error) = upgradectl::inventory::load(&file) {
                panic!("{}: {error}", page.display());
            }
            tried += 1;
        }
    }
    assert!(tried > 0, "no page shows a whole inventory");
}

#[test]
fn batches_of_the_book_load_and_the_one_that_ships_is_printed() {
    let directory = tempfile::tempdir().unwrap();
    let (inventory, file) = (directory.path().join("inventory.toml"), directory.path().join("batch.toml"));
    let guest = |name: &str, tag: &str| format!("[guests.{name}]\nhost = \"h\"\ntags = [\"{tag}\"]\n");
    let named = ["ServerA", "ServerB", "ServerC", "db1", "shop"].map(|name| guest(name, "x")).concat();
    let text = format!("version = 1\n[hosts]\nh = {{ hypervisor = \"sim\" }}\n{named}{}", guest("web1", "web"));
    std::fs::write(&inventory, text).unwrap();
    let inventory = upgradectl::inventory::load(&inventory).unwrap();
    let mut shipped = false;
    let mut tried = 0;
    for (page, text) in pages() {
        for block in text.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap()) {
            if !block.contains("[batch]\n") {
                continue;
            }
            std::fs::write(&file, block).unwrap();
            if let Err(error) = upgradectl::batch::file::load(&file, &inventory) {
                panic!("{}: {error}", page.display());
            }
            shipped |= block == upgradectl::batch::file::EXAMPLE;
            tried += 1;
        }
    }
    assert!(shipped && tried > 1, "{tried} batch files");
}
