//! {v}: one routine per sensitive instruction.
