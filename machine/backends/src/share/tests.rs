//! The server by its requests, against a temporary folder.

mod attributes;
mod data;
mod escapes;
mod folders;
mod guest;
mod hostile;
mod names;
mod pool;
