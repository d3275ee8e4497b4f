//! How a daemon takes memory, and how soon it gives it back.

use std::ffi::c_long;

/// `mi_option_purge_delay` of mimalloc, by its place in `mimalloc.h`, which it keeps from version to version.
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;
/// Milliseconds that freed memory is kept for the next buffer: those of a stream follow each other faster.
const KEEP_FREED_MS: c_long = 20;

/// From here on, memory comes in pages of 4 KiB, and goes back to the system soon after it is free.
///
/// Transparent huge pages let a buffer of a few hundred kilobytes take 2 MiB, and each is zeroed whole: together half of
/// what a daemon takes that moves buffers about. Call this before there are threads, whose stacks would have them.
///
/// It counts where mimalloc is the global allocator. A kernel without huge pages refuses, and nothing is lost.
pub fn sparing() {
    // Of the calling thread's address space, which is that of all.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    set(PURGE_DELAY, KEEP_FREED_MS);
}

#[expect(unsafe_code, reason = "the allocator's options are set by a call to C")]
fn set(option: libmimalloc_sys::mi_option_t, value: c_long) {
    // SAFETY: any option may be set at any time to any number; unknown ones are ignored (mimalloc's options.c).
    unsafe { libmimalloc_sys::mi_option_set(option, value) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_option_is_the_one_that_is_meant() {
        #[expect(unsafe_code, reason = "as above")]
        // SAFETY: it only reads a number.
        let get = || unsafe { libmimalloc_sys::mi_option_get(PURGE_DELAY) };
        // Of mimalloc 3: no other option begins with this number.
        assert!(get() == 1000 || std::env::var_os("MIMALLOC_PURGE_DELAY").is_some(), "{}", get());
        sparing();
        assert_eq!(get(), KEEP_FREED_MS);
        assert!(rustix::thread::transparent_huge_pages_are_disabled().unwrap());
    }
}
