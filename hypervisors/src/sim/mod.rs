//! A complete simulated platform whose world lies on disk, so that the whole lifecycle can be tried without root.
