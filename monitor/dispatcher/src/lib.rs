//! D: every exit arrives here and is sent on.
