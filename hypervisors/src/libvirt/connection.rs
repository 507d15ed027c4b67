//! The connection to libvirt: opened when first needed, opened again when it was lost; every call on a thread of
//! its own, with a time limit.
//!
//! libvirt's calls block, and a daemon that hangs blocks for ever. A call that does not return in time is left
//! behind on its thread (which does not keep the program from ending) and its effect is [`Cause::Unknown`].
//! Handles never leave that thread; all but the connection itself are dropped there. The `virt` crate panics in
//! `Drop` if libvirt will not take a handle back: [`Handle`] catches that.

use std::fmt;
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::thread;
use std::time::Duration;

use tokio::sync::oneshot;
use virt::connect::Connect;
use virt::domain::Domain;
use virt::error::{ErrorDomain, ErrorNumber};

use super::uri::Uri;
use crate::host::printable;
use crate::{Cause, Error, Result};

/// A libvirt handle whose `Drop` cannot panic.
pub(super) struct Handle<T>(Option<T>);

impl<T> Handle<T> {
    pub(super) fn new(inner: T) -> Self {
        Self(Some(inner))
    }
}

impl<T> Deref for Handle<T> {
    type Target = T;
    fn deref(&self) -> &T {
        self.0.as_ref().expect("held until it is dropped")
    }
}

impl<T> Drop for Handle<T> {
    fn drop(&mut self) {
        let inner = self.0.take();
        let _ = catch_unwind(AssertUnwindSafe(move || drop(inner)));
    }
}

/// Why a call failed: libvirt's word for it, or our own.
pub(super) enum Failure {
    Libvirt(virt::error::Error),
    Own(Error),
}

impl From<virt::error::Error> for Failure {
    fn from(error: virt::error::Error) -> Self {
        Failure::Libvirt(error)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Own(error)
    }
}

/// A domain by its name; `None` if libvirt has none.
pub(super) fn find(connect: &Connect, guest: &str) -> std::result::Result<Option<Handle<Domain>>, Failure> {
    match connect.lookup_domain_by_name(guest) {
        Ok(domain) => Ok(Some(Handle::new(domain))),
        Err(error) if is(&error, ErrorNumber::NoDomain) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Whether libvirt gave this reason.
pub(super) fn is(error: &virt::error::Error, code: ErrorNumber) -> bool {
    error.code().is(code)
}

/// One connection, for any number of callers.
pub(super) struct Connection {
    uri: String,
    slot: Arc<Mutex<Option<Handle<Connect>>>>,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("uri", &self.uri).finish_non_exhaustive()
    }
}

impl Connection {
    pub(super) fn new(uri: &str) -> Self {
        Self { uri: uri.to_owned(), slot: Arc::default() }
    }

    /// Does some work with the connection, on a thread of its own. `doing` is what is being attempted.
    pub(super) async fn call<T: Send + 'static>(
        &self,
        doing: impl Into<String>,
        limit: Duration,
        work: impl FnOnce(&Connect) -> std::result::Result<T, Failure> + Send + 'static,
    ) -> Result<T> {
        let doing = doing.into();
        let (sender, receiver) = oneshot::channel();
        let (uri, slot, about) = (self.uri.clone(), Arc::clone(&self.slot), doing.clone());
        let thread = thread::Builder::new().name("libvirt".to_owned());
        let spawned = thread.spawn(move || {
            let _ = sender.send(attempt(&uri, &slot, &about, work));
        });
        spawned.map_err(|error| Error::io(doing.as_str(), error))?;
        match tokio::time::timeout(limit, receiver).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(Error::unknown(doing, "the libvirt client library failed in the middle of the call")),
            Err(_) => Err(Error::unknown(doing, format!("libvirt did not answer within {} s", limit.as_secs()))
                .help("see whether the libvirt daemon hangs: virsh -c URI list")),
        }
    }
}

fn attempt<T>(
    uri: &str,
    slot: &Mutex<Option<Handle<Connect>>>,
    doing: &str,
    work: impl FnOnce(&Connect) -> std::result::Result<T, Failure>,
) -> Result<T> {
    super::late::load().map_err(|why| {
        Error::new(doing, Cause::Unsupported(format!("libvirt's library cannot be loaded: {}", printable(&why))))
            .help("install it: the package libvirt0 (Debian), libvirt-libs (Fedora, RHEL)")
    })?;
    let connect = connected(uri, slot).map_err(|error| {
        let mut error = explain(doing, &error);
        // nothing was asked of it, but nothing is known of the guest either
        error.cause = Cause::Unknown(format!("no connection to {}: {}", printable(uri), error.cause));
        error.help(remedy(uri))
    })?;
    work(&connect).map_err(|failure| match failure {
        Failure::Own(error) => error,
        Failure::Libvirt(error) if lost(&connect, &error) => {
            slot.lock().unwrap_or_else(PoisonError::into_inner).take();
            Error::unknown(doing, format!("the connection to libvirt was lost: {}", printable(error.message())))
        }
        Failure::Libvirt(error) => explain(doing, &error),
    })
}

/// What to look at where no connection comes about.
fn remedy(uri: &str) -> String {
    let Some(far) = uri.parse::<Uri>().ok().filter(Uri::by_ssh) else {
        return "see whether the libvirt daemon of this connection runs: systemctl status libvirtd virtlxcd".to_owned();
    };
    let mut words = vec!["ssh".to_owned(), "-o".to_owned(), "BatchMode=yes".to_owned()];
    words.extend(far.port.into_iter().flat_map(|port| ["-p".to_owned(), port.to_string()]));
    words.extend(far.parameter("keyfile").into_iter().flat_map(|key| ["-i".to_owned(), key]));
    let user = if far.user.is_empty() { String::new() } else { format!("{}@", far.user) };
    words.push(format!("{user}{}", far.host));
    let line = format!("{} virsh -c {} list", words.join(" "), far.at_home());
    format!("see whether this user gets in unasked, and libvirt answers there: {}", printable(&line))
}

/// The connection, opened if there is none that answers. A restarted daemon is only noticed by asking it something.
fn connected(
    uri: &str,
    slot: &Mutex<Option<Handle<Connect>>>,
) -> std::result::Result<Handle<Connect>, virt::error::Error> {
    static QUIET: Once = Once::new();
    // libvirt prints every error on stderr unless told otherwise
    QUIET.call_once(virt::error::clear_error_callback);
    let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(open) = slot.as_ref().filter(|open| matches!(open.is_alive(), Ok(true)) && open.hostname().is_ok()) {
        return Ok(Handle::new((**open).clone()));
    }
    *slot = None;
    let open = Connect::open(Some(uri))?;
    let shared = open.clone();
    *slot = Some(Handle::new(open));
    Ok(Handle::new(shared))
}

fn lost(connect: &Connect, error: &virt::error::Error) -> bool {
    let link = error.domain().is(ErrorDomain::Rpc) && !is(error, ErrorNumber::NoSupport);
    link || !matches!(connect.is_alive(), Ok(true))
}

/// Turns libvirt's error into one of ours (libvirt.org, virErrorNumber).
fn explain(doing: &str, error: &virt::error::Error) -> Error {
    use ErrorNumber as N;
    let said = printable(error.message());
    let cause = match error.code().known() {
        Some(N::NoDomain) => Cause::NotFound(said),
        Some(N::OperationTimeout | N::AgentUnresponsive | N::OperationAborted) => Cause::Unknown(said),
        Some(
            N::OperationInvalid
            | N::DomExist
            | N::OperationDenied
            | N::AuthFailed
            | N::AuthCancelled
            | N::AuthUnavailable
            | N::AccessDenied
            | N::ResourceBusy,
        ) => Cause::Refused(said),
        Some(N::NoSupport | N::ArgumentUnsupported | N::ConfigUnsupported | N::OperationUnsupported) => {
            Cause::Unsupported(said)
        }
        Some(N::XmlError | N::XmlDetail | N::XmlInvalidSchema | N::ParseFailed) => Cause::Malformed(said),
        _ => Cause::Platform(said),
    };
    Error::new(doing, cause)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_cannot_connect_is_told_where_to_look() {
        assert!(remedy("xen:///system").ends_with("systemctl status libvirtd virtlxcd"));
        let far = "xen+ssh://adm@[fd00::5]:2222/system?keyfile=/root/key&no_tty=1";
        let line = "ssh -o BatchMode=yes -p 2222 -i /root/key adm@fd00::5 virsh -c xen:///system list";
        assert!(remedy(far).ends_with(line), "{}", remedy(far));
        assert!(remedy("qemu+ssh://far/system").ends_with("ssh -o BatchMode=yes far virsh -c qemu:///system list"));
    }
}
