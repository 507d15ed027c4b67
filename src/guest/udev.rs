//! udev's persistent network names (`/etc/udev/rules.d/*persistent-net*.rules`): the hardware address a name is pinned
//! to becomes the clone's, so that the clone's card keeps its name. Written by the udev of Debian up to release 8 and
//! of CentOS 6.

use std::path::Path;

use super::splice::{Changes, Splices, lines};
use super::tree::Overlay;
use super::{CloneSpec, GuestError};

const DIRECTORY: &str = "etc/udev/rules.d";

/// Plans the edits of this concern.
pub fn rewrite(edits: &mut Overlay<'_>, spec: &CloneSpec) -> Result<(), GuestError> {
    let changes = Changes::new(spec)?;
    for name in edits.list(Path::new(DIRECTORY))? {
        let Some(name) = name.to_str().filter(|n| n.contains("persistent-net") && n.ends_with(".rules")) else {
            continue;
        };
        let path = Path::new(DIRECTORY).join(name);
        // A link to /dev/null masks the rules.
        if matches!(edits.image(&path)?, Some(super::FileImage::Symlink { target }) if target == Path::new("/dev/null"))
        {
            continue;
        }
        let Some(text) = edits.text(&path)? else { continue };
        let mut splices = Splices::new(&text);
        for line in lines(&text, &['#']) {
            changes.replace_macs(&mut splices, line.range);
        }
        if let Some((text, why)) = splices.finish() {
            edits.set_text(&path, text, why)?;
        }
    }
    Ok(())
}
