//! The threads that compress: one per core, shared by all writers of the process, started at first use.
//!
//! They only ever wait for blocks, so writers cannot hold each other up.

use std::{
    io,
    num::NonZeroUsize,
    sync::{
        Arc, LazyLock, Mutex, PoisonError,
        mpsc::{Receiver, Sender, SyncSender, channel},
    },
    thread,
};

use libdeflater::{CompressionLvl, Compressor};

/// One block on its way to become a member.
pub(super) struct Block {
    pub(super) input: Vec<u8>,
    /// A buffer to reuse.
    pub(super) out: Vec<u8>,
    /// Has room for the answer, so sending never blocks.
    pub(super) done: SyncSender<io::Result<Packed>>,
}

/// A finished member, with the buffers to reuse.
pub(super) struct Packed {
    pub(super) input: Vec<u8>,
    pub(super) out: Vec<u8>,
}

static THREADS: LazyLock<usize> = LazyLock::new(|| thread::available_parallelism().map_or(2, NonZeroUsize::get));

static QUEUE: LazyLock<Sender<Block>> = LazyLock::new(|| {
    let (queue, blocks) = channel();
    let blocks = Arc::new(Mutex::new(blocks));
    for n in 0..*THREADS {
        let blocks = blocks.clone();
        // Without threads the queue's other end goes away, and `submit` says so.
        drop(thread::Builder::new().name(format!("gzip-{n}")).spawn(move || work(&blocks)));
    }
    queue
});

/// How many blocks are compressed at a time.
pub(super) fn threads() -> usize {
    *THREADS
}

/// Queues a block; its answer comes through [`Block::done`].
pub(super) fn submit(block: Block) -> io::Result<()> {
    QUEUE.send(block).map_err(|_| io::Error::other("no compression thread could be started"))
}

fn work(blocks: &Mutex<Receiver<Block>>) {
    let level = |n| CompressionLvl::new(n).expect("libdeflate's levels are 0 to 12");
    // Level 5 gives the size of `gzip -6`, measured on BSON and text.
    let mut compress = Compressor::new(level(5));
    let mut probe = Compressor::new(level(1));
    let mut store = Compressor::new(level(0));
    let mut scratch = Vec::new();
    loop {
        let next = blocks.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Block { input, mut out, done }) = next else { return };
        let worth_it = compresses(&mut probe, &mut scratch, &input);
        let compressor = if worth_it { &mut compress } else { &mut store };
        out.resize(compressor.gzip_compress_bound(input.len()), 0);
        let packed = compressor.gzip_compress(&input, &mut out).map_err(io::Error::other).map(|n| {
            out.truncate(n);
            Packed { input, out }
        });
        // The writer may have given up.
        let _ = done.send(packed);
    }
}

/// Whether deflating a block saves anything, judged by a few samples from all over it.
fn compresses(probe: &mut Compressor, scratch: &mut Vec<u8>, input: &[u8]) -> bool {
    const SAMPLES: usize = 8;
    const SAMPLE: usize = 4 << 10;
    if input.len() < SAMPLES * SAMPLE * 4 {
        return true;
    }
    let stride = input.len() / SAMPLES;
    (0..SAMPLES).any(|n| {
        let sample = &input[n * stride..][..SAMPLE];
        scratch.resize(probe.deflate_compress_bound(SAMPLE), 0);
        probe.deflate_compress(sample, scratch).is_ok_and(|n| n < SAMPLE - SAMPLE / 32)
    })
}
