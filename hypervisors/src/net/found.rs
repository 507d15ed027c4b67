//! A guest whose address is not fixed: found by its hardware address whenever it is used.
//!
//! The last known address is kept in a file beside the run's host keys. Before each use its owner is asked on the link; if
//! that is not the guest any more (a new lease), the link is searched. Whose machine answers is proven by the connection
//! itself: ssh expects the guest's own host key.

use std::fmt;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;

use super::Net;
use crate::host::{Command, GuestLink, Host, Job, JobStatus, Output, replace};
use crate::{Change, Error, Result};

/// The address by which a guest is reached now.
///
/// # Errors
/// [`crate::Cause::Unknown`] if nobody with its hardware address answers.
pub async fn address(net: &dyn Net, link: &GuestLink) -> Result<IpAddr> {
    let Some(by) = &link.by else { return Ok(link.address) };
    let known = known_address(link);
    if let Some(known) = known
        && net.owner(known, &by.via).await? == Some(by.mac)
    {
        return Ok(known);
    }
    let doing = format!("find {} by {} on {}", link.name, by.mac, by.via);
    let Some(found) = net.find(by.mac, &by.via).await? else {
        return Err(Error::unknown(doing, "nobody with that hardware address answers")
            .help("look whether the guest runs and the DHCP server gave it a lease"));
    };
    if known != Some(found) {
        replace(&by.known, format!("{found}\n").as_bytes(), 0o600)
            .map_err(|error| Error::io(format!("write {}", by.known.display()), error))?;
    }
    Ok(found)
}

/// The address it was last found at; nothing is asked.
pub fn known_address(link: &GuestLink) -> Option<IpAddr> {
    match &link.by {
        Some(by) => std::fs::read_to_string(&by.known).ok()?.trim().parse().ok(),
        None => Some(link.address),
    }
}

/// The inside of a guest that is found anew for each command.
pub(crate) struct Found<F> {
    link: GuestLink,
    net: Arc<dyn Net>,
    make: F,
}

impl<F> fmt::Debug for Found<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Found").field("link", &self.link).finish_non_exhaustive()
    }
}

/// The inside of a guest, by a link to a fixed address or by one that has to be found.
pub(crate) fn inside<H, F>(link: &GuestLink, net: Arc<dyn Net>, make: F) -> Arc<dyn Host>
where
    H: Host + 'static,
    F: Fn(&GuestLink) -> H + Send + Sync + 'static,
{
    match link.by {
        None => Arc::new(make(link)),
        Some(_) => Arc::new(Found { link: link.clone(), net, make }),
    }
}

impl<H: Host, F: Fn(&GuestLink) -> H + Send + Sync> Found<F> {
    async fn now(&self) -> Result<H> {
        let address = address(&*self.net, &self.link).await?;
        Ok((self.make)(&GuestLink { address, by: None, ..self.link.clone() }))
    }
}

#[async_trait]
impl<H: Host, F: Fn(&GuestLink) -> H + Send + Sync> Host for Found<F> {
    fn name(&self) -> &str {
        &self.link.name
    }
    fn is_local(&self) -> bool {
        false
    }
    async fn run(&self, command: &Command) -> Result<Output> {
        self.now().await?.run(command).await
    }
    async fn read_file(&self, path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
        self.now().await?.read_file(path, limit).await
    }
    async fn write_file(&self, path: &Path, bytes: &[u8], mode: u32) -> Result<Change> {
        self.now().await?.write_file(path, bytes, mode).await
    }
    async fn job_start(&self, job: &Job) -> Result<Change> {
        self.now().await?.job_start(job).await
    }
    async fn job_status(&self, id: &str) -> Result<JobStatus> {
        self.now().await?.job_status(id).await
    }
    async fn job_forget(&self, id: &str) -> Result<Change> {
        self.now().await?.job_forget(id).await
    }
    async fn job_output(&self, id: &str, from: u64) -> Result<Vec<u8>> {
        self.now().await?.job_output(id, from).await
    }
}
