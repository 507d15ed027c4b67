//! Sends mail and counts it.
