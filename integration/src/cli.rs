//! Runs the product as a user would.
