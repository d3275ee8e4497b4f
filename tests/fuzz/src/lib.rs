//! Fuzzers of the readers of `prexor-format`: what they check is in `targets`.

use std::alloc::System;

use cap::Cap;

pub mod targets;

/// The most that one input may have allocated at a time, beyond what there was before; inputs have 24 KiB, the largest
/// buffers of the readers 256 KiB, and what is compressed unpacks to 88 times its size at most.
const MEMORY: usize = 8 << 20;

/// Calls `check`; allocating more than [`MEMORY`] ends the process, which libFuzzer reports.
pub fn bounded(allocator: &Cap<System>, check: impl FnOnce()) {
    allocator.set_limit(allocator.allocated() + MEMORY).expect("a limit above what is allocated");
    check();
    allocator.set_limit(usize::MAX).expect("no limit");
}
