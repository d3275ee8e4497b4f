//! The program `prexorctl`. Everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    prexorctl::main(std::env::args_os().collect())
}
