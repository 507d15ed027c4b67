//! Operating-system upgrades: what is done inside a clone to upgrade it.
