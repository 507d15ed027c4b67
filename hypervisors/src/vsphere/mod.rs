//! VMware through the vSphere API: vCenter, or an ESXi host of its own.
//!
//! | file | |
//! |---|---|
//! | [`tls`], [`login`] | whom is trusted, who logs in |
//! | `session` | one login: counted, renewed when it has expired |
//! | `props`, `task` | reading properties, waiting for tasks |
//! | `facts` | what a machine is, from its properties: pure |
//! | `edit` | what is asked of the API, from facts: pure |
//! | `machines` | [`Machines`]: the operations |
//! | `guest` | the inside of a guest by its tools |
//! | `platform`, `definition` | [`Hypervisor`](crate::Hypervisor) |
//!
//! The meaning of calls and properties is that of the vSphere Web Services API Reference (8.0); what it says of a call is cited
//! where it matters. Nothing is connected to before it is used.

mod definition;
mod edit;
mod facts;
mod guest;
pub mod login;
mod machines;
mod platform;
mod props;
mod session;
mod task;
pub mod tls;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;
use vim_rs::core::client::Error as Fault;
use vim_rs::types::structs::ManagedObjectReference;

use crate::host::printable;
use crate::{Cause, Error, Net, Result};

pub use login::Credentials;
pub use tls::Trust;

use session::Session;

/// Where a vCenter is and how to get in.
#[derive(Clone, Debug)]
pub struct Address {
    /// Its name in messages: the inventory's.
    pub name: String,
    /// `https://host[:port]`.
    pub url: String,
    /// Whom to trust.
    pub trust: Trust,
    /// Who logs in.
    pub credentials: Credentials,
}

/// A vCenter. Clones share the session.
#[derive(Clone)]
pub struct Vsphere {
    address: Address,
    net: Arc<dyn Net>,
    /// Who logs in to the guests' own systems, by the guests' names.
    guests: Arc<BTreeMap<String, Credentials>>,
    session: Arc<tokio::sync::Mutex<Option<Arc<Session>>>>,
    counts: session::Counts,
    /// The server's ids of machines, by instance UUID. They stay for as long as a machine is registered.
    known: Arc<Mutex<HashMap<String, ManagedObjectReference>>>,
}

impl fmt::Debug for Vsphere {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vsphere").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Vsphere {
    /// A vCenter; `net` reaches its guests.
    pub fn new(address: Address, net: Arc<dyn Net>) -> Self {
        Self {
            address,
            net,
            guests: Arc::default(),
            session: Arc::default(),
            counts: Arc::default(),
            known: Arc::default(),
        }
    }

    /// With logins for the systems of guests, by the names they are asked for ([`crate::Machines::enter`]).
    #[must_use]
    pub fn entering(self, guests: BTreeMap<String, Credentials>) -> Self {
        Self { guests: Arc::new(guests), ..self }
    }

    /// The session, begun if there is none.
    async fn session(&self) -> Result<Arc<Session>> {
        let mut session = self.session.lock().await;
        if let Some(session) = &*session {
            return Ok(session.clone());
        }
        let Address { url, trust, credentials, .. } = &self.address;
        let begun = Session::begin(url, trust, credentials, self.counts.clone()).await?;
        Ok(session.insert(begun).clone())
    }

    fn counted(&self) -> BTreeMap<String, u64> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What a call gave back instead of an answer.
///
/// The transport's own error type holds, by way of a fault's arguments, every type of the API: a future that keeps one while it
/// waits costs the compiler minutes, each time it has to be proven that it may move between threads. It becomes this at once.
#[derive(Debug)]
struct Trouble {
    /// The fault's type, if it is one of the API's.
    kind: &'static str,
    cause: Cause,
    help: Option<&'static str>,
}

impl Trouble {
    fn malformed(why: impl Into<String>) -> Self {
        Self { kind: "", cause: Cause::Malformed(why.into()), help: None }
    }
    fn is(&self, kind: &str) -> bool {
        self.kind == kind
    }
    fn during(self, doing: impl Into<String>) -> Error {
        let error = Error::new(doing, self.cause);
        match self.help {
            Some(help) => error.help(help),
            None => error,
        }
    }
}

impl From<Fault> for Trouble {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::MethodFault(fault) => {
                let kind = fault.type_.map_or("", vim_rs::types::struct_enum::StructType::as_str);
                let cause = props::json(&*fault).map_or_else(|_| Cause::Platform(kind.to_owned()), |json| cause(&json));
                let help = match kind {
                    "InvalidLogin" => Some("see credentials of the host in the inventory"),
                    "NoPermission" => Some("the user that logs in needs this privilege on that object"),
                    _ => None,
                };
                Self { kind, cause, help }
            }
            Fault::ReqwestError(error) => {
                let why = chain(&*error);
                if error.is_connect() && why.contains("ertificate") {
                    let help = "name its authority's file (ca) or its certificate's thumbprint in the inventory";
                    return Self { kind: "", cause: Cause::Refused(why), help: Some(help) };
                }
                Self { kind: "", cause: Cause::Unknown(why), help: None }
            }
            Fault::MissingOrInvalidSessionKey => {
                Self { kind: "NotAuthenticated", cause: Cause::Refused("the session has expired".into()), help: None }
            }
            Fault::ParseError(why) if foreign(&why) => {
                let text: String = printable(&why).chars().take(300).collect();
                Self { kind: "", cause: Cause::Unknown(text), help: None }
            }
            other => Self::malformed(printable(&other.to_string())),
        }
    }
}

/// Whether an error came that is none of the API's: what stands before the server answers so while it is away. The client tells it
/// by its words only, for JSON and for SOAP.
fn foreign(why: &str) -> bool {
    why.starts_with("Failed to parse MethodFault from error response") || why.ends_with("no SOAP fault recognised")
}

/// An error for what a call gave back.
fn wrong(doing: impl Into<String>, trouble: impl Into<Trouble>) -> Error {
    trouble.into().during(doing)
}

/// What a fault says, as the API writes it in JSON: a `MethodFault`, its words in `faultstring` if it is the answer itself, or a
/// `LocalizedMethodFault` around one.
fn cause(fault: &Value) -> Cause {
    let inner = fault.get("fault").unwrap_or(fault);
    let kind = inner.get("_typeName").and_then(Value::as_str).unwrap_or("an unnamed fault");
    let said = ["localizedMessage", "faultstring"].into_iter().filter_map(|name| fault.get(name)?.as_str());
    let messages = inner.get("faultMessage").and_then(Value::as_array).into_iter().flatten();
    let said = said.chain(messages.filter_map(|message| message.get("message")?.as_str()));
    let details = inner.as_object().into_iter().flatten().filter_map(|(key, value)| match value {
        Value::String(text) if !matches!(key.as_str(), "_typeName" | "faultstring") && !text.is_empty() => {
            Some(format!("{key} {text}"))
        }
        Value::Number(number) => Some(format!("{key} {number}")),
        _ => None,
    });
    let mut words: Vec<String> = said.map(str::to_owned).chain(details).collect();
    words.dedup();
    let words = if words.is_empty() { String::new() } else { format!(": {}", words.join("; ")) };
    let text: String = printable(&format!("{kind}{words}")).chars().take(600).collect();
    match kind {
        "ManagedObjectNotFound" => Cause::NotFound(text),
        "NotAuthenticated" | "InvalidLogin" | "NoPermission" | "InvalidPowerState" | "InvalidState"
        | "DuplicateName" | "InvalidName" | "MethodDisabled" | "InvalidGuestLogin" => Cause::Refused(text),
        // What is in progress may be what was asked before, and whose answer was lost.
        "TaskInProgress" => Cause::Unknown(text),
        "NotSupported" | "NotImplemented" | "MethodNotFound" => Cause::Unsupported(text),
        _ => Cause::Platform(text),
    }
}

/// An error and what it rests on, without addresses: they may hold tokens.
fn chain(error: &dyn std::error::Error) -> String {
    let mut words = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let text = error.to_string();
        let text = text.split(" for url (").next().unwrap_or_default().to_owned();
        if !words.iter().any(|said: &String| said.contains(&text)) {
            words.push(text);
        }
        next = error.source();
    }
    printable(&words.join(": "))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_fault_is_told_with_its_type_its_words_and_its_fields() {
        let fault = json!({"_typeName": "LocalizedMethodFault", "localizedMessage": "The name 'web1' already exists.",
            "fault": {"_typeName": "DuplicateName", "name": "web1", "object": {"type": "VirtualMachine", "value": "vm-1"}}});
        let Cause::Refused(text) = cause(&fault) else { panic!("{fault}") };
        assert_eq!(text, "DuplicateName: The name 'web1' already exists.; name web1");
        // As vCenter 8.0.3 answers in JSON.
        let answered = json!({"_typeName": "NotAuthenticated", "object": {"type": "GuestProcessManager", "value": "x"},
            "privilegeId": "", "faultstring": "The session is not authenticated."});
        let Cause::Refused(text) = cause(&answered) else { panic!("{answered}") };
        assert_eq!(text, "NotAuthenticated: The session is not authenticated.");
        assert!(matches!(cause(&json!({})), Cause::Platform(text) if text == "an unnamed fault"));
        let hostile = json!({"_typeName": "X", "a": "\u{1b}[2J".repeat(1000)});
        assert!(matches!(cause(&hostile), Cause::Platform(text) if !text.contains('\u{1b}') && text.len() < 2500));
    }

    #[test]
    fn an_answer_that_is_none_of_the_apis_leaves_it_unknown_what_became_of_the_call() {
        let away = "Failed to parse MethodFault from error response: no healthy upstream\u{1b}[2J";
        let Trouble { cause: Cause::Unknown(text), .. } = Trouble::from(Fault::ParseError(away.into())) else {
            panic!()
        };
        assert!(text.contains("no healthy upstream") && !text.contains('\u{1b}'), "{text}");
        let other = Trouble::from(Fault::ParseError("JSON deserialization failed for String".into()));
        assert!(matches!(other.cause, Cause::Malformed(_)));
    }
}
