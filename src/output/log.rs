//! The record of a run. Pure.
