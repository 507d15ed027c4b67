//! Interfaces, their addresses, the default route and listening sockets, in the state or on this machine.

pub mod ifconfig;
pub mod interfaces;
pub mod routes;
pub mod sockstat;
