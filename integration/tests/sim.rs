//! The sim ring: the built binary drives the whole lifecycle on the simulated backend. No root, no lab.
