//! The built program, run as a user would run it.
//! One program: a test binary for each file would be linked again and again.

mod any_file;
mod bad_input;
mod bench;
mod common;
mod convert;
mod doctor;
mod files;
mod forms;
mod hub;
mod inputs;
mod lsp;
mod serve;
mod serve_limits;
