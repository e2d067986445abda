//! The chips a guest sees, each after its datasheet.
