//! See `prexor_fuzz::targets::tar`.
#![no_main]

use std::alloc::System;

use cap::Cap;
use prexor_fuzz::{bounded, targets::tar::check};

#[global_allocator]
static MEMORY: Cap<System> = Cap::new(System, usize::MAX);

libfuzzer_sys::fuzz_target!(|data: &[u8]| bounded(&MEMORY, || check(data)));
