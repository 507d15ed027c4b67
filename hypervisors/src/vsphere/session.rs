//! A session with the API: begun when first used, counted call by call, renewed when it has expired, ended when asked or dropped.
//!
//! [`Session`] stands between the generated stubs and the transport. A call that is refused for want of a session was not carried
//! out, so it is made once more after a new login: a wait for a task, which is nothing but calls, survives that without knowing.
//! Tasks and objects are the server's and outlive sessions; views and filters do not, and live for one operation only.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use vim_rs::WireLoggingMode;
use vim_rs::core::ClientBuilder;
use vim_rs::core::client::{BoxFuture, Client, Error as Fault, PropertyValue, Transport, TransportMode, VimClient};
use vim_rs::mo::SessionManager;
use vim_rs::types::struct_enum::StructType;
use vim_rs::types::structs::ServiceContent;

use super::login::{Credentials, Login};
use super::tls::{self, Trust};
use super::wrong;
use crate::{Cause, Error, Result};

/// A call that takes longer than this has an unknown end.
const CALL: Duration = Duration::from_secs(120);
const CONNECT: Duration = Duration::from_secs(20);

/// What a login is read for.
const LOGIN: &str = "read the vCenter's user and password";

/// Calls by name, shared by all sessions of one platform.
pub(super) type Counts = Arc<Mutex<BTreeMap<String, u64>>>;

/// One login.
pub(super) struct Session {
    client: Arc<Client>,
    credentials: Credentials,
    counts: Counts,
    /// How often it was renewed: whoever finds it expired renews it, unless another did meanwhile.
    renewals: tokio::sync::Mutex<u64>,
    renewed: std::sync::atomic::AtomicU64,
    /// The same connection, for files of guests.
    pub(super) http: reqwest::Client,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("api", &self.client.api_release()).finish_non_exhaustive()
    }
}

/// `host[:port]` of `https://host[:port][/sdk]`.
pub(super) fn server(url: &str) -> Option<&str> {
    let rest = url.strip_prefix("https://")?;
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let rest = rest.strip_suffix("/sdk").unwrap_or(rest);
    (!rest.is_empty() && !rest.contains(['/', '?', '#', '@', ' '])).then_some(rest)
}

/// Boxed, for [`super::Trouble`]'s reason.
fn built(builder: ClientBuilder) -> BoxFuture<'static, Result<Arc<Client>, super::Trouble>> {
    Box::pin(async move { Ok(builder.build().await?) })
}

impl Session {
    /// Logs in. The transport is chosen by asking: vCenter from 8.0U2 on says which release it speaks in JSON ("Vcenter System
    /// hello", added in vSphere API 8.0.2.0), with everything else it is SOAP.
    pub(super) async fn begin(
        url: &str,
        trust: &Trust,
        credentials: &Credentials,
        counts: Counts,
    ) -> Result<Arc<Self>> {
        let doing = format!("log in to {url}");
        let server = server(url).ok_or_else(|| {
            Error::refused(&*doing, "it is not the address of a vCenter").help("url = \"https://vcenter.example\"")
        })?;
        let tls =
            tls::config(trust).map_err(|why| Error::refused(&*doing, why).help("see ca and thumbprint of the host"))?;
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .cookie_store(true)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT)
            .timeout(CALL)
            .build()
            .map_err(|error| Error::new(&*doing, Cause::Platform(super::chain(&error))))?;
        let Login { user, password } = credentials.read(LOGIN).await?;
        let builder = ClientBuilder::new(server, http.clone())
            .basic_authn(&user, &password)
            .app_details("upgradectl", env!("CARGO_PKG_VERSION"))
            // Any mode but `Off` keeps bodies, and with them passwords, out of the log.
            .wire_logging(WireLoggingMode::Summary)
            .transport(TransportMode::Auto);
        let client = built(builder).await.map_err(|trouble| wrong(&*doing, trouble))?;
        count(&counts, "Login");
        tracing::debug!(url, transport = ?client.transport(), api = client.api_release(), "logged in");
        Ok(Arc::new(Self {
            client,
            credentials: credentials.clone(),
            counts,
            renewals: tokio::sync::Mutex::new(0),
            renewed: std::sync::atomic::AtomicU64::new(0),
            http,
        }))
    }

    /// Makes a call, and once more after a new login if the session has expired.
    async fn call<T, F>(&self, name: &str, mut call: impl FnMut() -> F) -> Result<T, Fault>
    where
        F: Future<Output = Result<T, Fault>>,
    {
        use std::sync::atomic::Ordering::SeqCst;
        let before = self.renewed.load(SeqCst);
        count(&self.counts, name);
        let first = call().await;
        if !first.as_ref().is_err_and(expired) {
            return first;
        }
        // Not kept while it waits, for the reason that is told at `Trouble`.
        drop(first);
        let mut renewals = self.renewals.lock().await;
        if *renewals == before {
            self.renew().await?;
            *renewals += 1;
            self.renewed.store(*renewals, SeqCst);
        }
        drop(renewals);
        count(&self.counts, name);
        call().await
    }
}

impl Session {
    async fn renew(&self) -> Result<(), Fault> {
        let Some(manager) = &self.client.service_content().session_manager else {
            return Err(Fault::MissingOrInvalidSessionKey);
        };
        let Login { user, password } = match self.credentials.read(LOGIN).await {
            Ok(login) => login,
            Err(error) => return Err(Fault::ParseError(error.to_string())),
        };
        tracing::info!("the session has expired: logging in again");
        let manager = SessionManager::new(self.client.clone(), &manager.value);
        // To guest operations alone a session may have expired, and nobody logs in to a session that lives.
        count(&self.counts, "Logout");
        if let Err(fault) = manager.logout().await {
            tracing::debug!(%fault, "the session was over");
        }
        count(&self.counts, "Login");
        manager.login(&user, &password, None).await.map(drop)
    }
}

fn count(counts: &Counts, name: &str) {
    tracing::debug!(call = name, "asked");
    let mut counts = counts.lock().unwrap_or_else(PoisonError::into_inner);
    *counts.entry(name.to_owned()).or_default() += 1;
}

fn expired(fault: &Fault) -> bool {
    match fault {
        Fault::MethodFault(fault) => fault.type_ == Some(StructType::NotAuthenticated),
        Fault::MissingOrInvalidSessionKey => true,
        _ => false,
    }
}

type Params<'a> = Option<&'a (dyn miniserde::Serialize + Send + Sync)>;

impl VimClient for Session {
    fn service_content(&self) -> &ServiceContent {
        self.client.service_content()
    }
    fn transport(&self) -> Transport {
        self.client.transport()
    }
    fn api_release(&self) -> String {
        self.client.api_release()
    }
    fn invoke<'a>(
        &'a self,
        svc: &'a str,
        kind: &'a str,
        id: &'a str,
        method: &'a str,
        params: Params<'a>,
    ) -> BoxFuture<'a, Result<Bytes, Fault>> {
        Box::pin(self.call(method, move || self.client.invoke(svc, kind, id, method, params)))
    }
    fn invoke_optional<'a>(
        &'a self,
        svc: &'a str,
        kind: &'a str,
        id: &'a str,
        method: &'a str,
        params: Params<'a>,
    ) -> BoxFuture<'a, Result<Option<Bytes>, Fault>> {
        Box::pin(self.call(method, move || self.client.invoke_optional(svc, kind, id, method, params)))
    }
    fn invoke_void<'a>(
        &'a self,
        svc: &'a str,
        kind: &'a str,
        id: &'a str,
        method: &'a str,
        params: Params<'a>,
    ) -> BoxFuture<'a, Result<(), Fault>> {
        Box::pin(self.call(method, move || self.client.invoke_void(svc, kind, id, method, params)))
    }
    fn fetch_property_raw<'a>(
        &'a self,
        svc: &'a str,
        kind: &'a str,
        id: &'a str,
        property: &'a str,
    ) -> BoxFuture<'a, Result<Option<PropertyValue>, Fault>> {
        Box::pin(self.call(property, move || self.client.fetch_property_raw(svc, kind, id, property)))
    }
    fn close(&self) -> BoxFuture<'_, Result<(), Fault>> {
        count(&self.counts, "Logout");
        Box::pin(self.client.close())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_machine_and_perhaps_a_port() {
        assert_eq!(server("https://vc.example"), Some("vc.example"));
        assert_eq!(server("https://vc.example:8443/sdk/"), Some("vc.example:8443"));
        assert_eq!(server("https://[fd00::1]:8443/"), Some("[fd00::1]:8443"));
        for bad in ["http://vc", "https://", "https://u:p@vc", "https://vc/x", "https://vc?x", "vc"] {
            assert_eq!(server(bad), None, "{bad}");
        }
    }
}
