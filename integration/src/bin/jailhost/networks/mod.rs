//! Interfaces and their addresses, in the state or on this machine.

pub mod ifconfig;
pub mod interfaces;
