//! What devices stand on: terminals and files.
