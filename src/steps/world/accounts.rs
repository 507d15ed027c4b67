//! System accounts that a release brings, where the jail's own account files stay.

use hypervisors::Host;

use super::{Tree, UNDECIDED, act, shown};
use crate::recipe::freebsd::etcupdate;
use crate::steps::StepError;

/// Defines `add OWN NEW FIELDS`: appends lines of NEW whose name and id OWN has not, ids below 1000 only.
pub(super) const ADD: &str = r#"add() { test -f "$1" && test -f "$2" || return 0; cp -p "$1" "$1.new" && { awk 1 "$1"; awk -F: -v k=$3 'FNR == NR { n[$1] = 1; i[$3] = 1; next } /^#/ { next } NF >= k && $3 + 0 < 1000 && ($1 in n) + ($3 in i) == 0' "$1" "$2"; } >"$1.new" && mv -f "$1.new" "$1"; }; "#;

/// Arguments: root, the release's tree, where the queue is. Adds to the account files that are in the queue, and to no others: what an
/// administrator took out of one that could be merged stays out.
pub(super) const QUEUED: &str = r#"r=$(cd -P "$1" && pwd -P) || exit 1; t=$2 l=$3.list; test -f "$l" || exit 0; queued() { tr "\000" "\012" <"$l" | grep -qxF "$1"; }; if queued /etc/group; then add "$r/etc/group" "$t/etc/group" 3 || exit 1; fi; if queued /etc/master.passwd; then add "$r/etc/master.passwd" "$t/etc/master.passwd" 10 && pwd_mkdb -p -d "$r/etc" "$r/etc/master.passwd" || exit 1; fi; exit 0"#;

/// Gives the jail the accounts that its release needs, where etcupdate could not put the files together.
pub(super) async fn complete(host: &dyn Host, tree: &Tree) -> Result<(), StepError> {
    let (root, new) = (shown(&tree.root), shown(&etcupdate::current(&tree.root)));
    let aside = shown(&tree.scratch.join(UNDECIDED));
    act(host, "add the accounts of the release", &format!("{ADD}{QUEUED}"), &[&root, &new, &aside]).await?;
    Ok(())
}
