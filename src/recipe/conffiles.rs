//! conffiles
