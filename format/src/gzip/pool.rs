//! The threads that compress: one per core, shared by all writers of the process, started at first use.
//!
//! They never wait for anything but work, so writers cannot hold each other up.

use std::{
    io,
    num::NonZeroUsize,
    sync::{
        Arc, LazyLock, Mutex, PoisonError,
        mpsc::{Receiver, Sender, channel},
    },
    thread,
};

use libdeflater::{CompressionLvl, Compressor};

use super::Level;

/// Bytes that a thread's buffer keeps for the next job.
const KEPT: usize = 4 << 20;

/// Work for one of the threads. It must not wait for anything.
type Job = Box<dyn FnOnce(&mut Packer) + Send>;

static THREADS: LazyLock<usize> = LazyLock::new(|| thread::available_parallelism().map_or(2, NonZeroUsize::get));

static QUEUE: LazyLock<Sender<Job>> = LazyLock::new(|| {
    let (queue, jobs) = channel();
    let jobs = Arc::new(Mutex::new(jobs));
    for n in 0..*THREADS {
        let jobs = jobs.clone();
        // Without threads the queue's other end goes away, and `run` says so.
        drop(thread::Builder::new().name(format!("gzip-{n}")).spawn(move || work(&jobs)));
    }
    queue
});

/// How many jobs run at a time.
pub fn threads() -> usize {
    *THREADS
}

/// Queues work that ends in compressing, such as checking and hashing what is compressed: it runs where the bytes are
/// warm. The queue has no end of its own: whoever queues must bound what is under way.
///
/// # Errors
/// When no thread could be started.
pub fn run(job: impl FnOnce(&mut Packer) + Send + 'static) -> io::Result<()> {
    QUEUE.send(Box::new(job)).map_err(|_| io::Error::other("no compression thread could be started"))
}

fn work(jobs: &Mutex<Receiver<Job>>) {
    let mut packer = Packer::default();
    loop {
        let next = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = next else { return };
        job(&mut packer);
    }
}

/// One thread's compressors.
#[derive(Default)]
pub struct Packer {
    by_level: [Option<Compressor>; 13],
    /// Room for the worst case, kept: only what a member comes to is copied out of it.
    scratch: Vec<u8>,
    room: Vec<u8>,
    /// Bytes that were compressed at [`Level::Balanced`], and those of them with the higher of its two levels.
    balanced: (u64, u64),
}

impl Packer {
    /// Appends `input` as one gzip member; what does not compress is stored.
    ///
    /// # Errors
    /// None that can be provoked: the output has room for the worst case.
    pub fn member(&mut self, level: Level, input: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        let n = if self.compresses(input) { self.level(level, input.len() as u64) } else { 0 };
        let (compressor, scratch) = (compressor(&mut self.by_level, n), &mut self.scratch);
        let bound = compressor.gzip_compress_bound(input.len());
        if scratch.len() < bound {
            scratch.resize(bound, 0);
        }
        let written = compressor.gzip_compress(input, scratch).map_err(io::Error::other)?;
        out.extend_from_slice(&scratch[..written]);
        if scratch.len() > KEPT {
            *scratch = Vec::new();
        }
        Ok(())
    }

    /// libdeflate's level. `balanced` lies between two of them, so the higher gets a part of the bytes; measured on BSON, text
    /// and logs, level 5 alone is up to 8 % above `gzip -6`, and level 6 alone takes half as long again.
    fn level(&mut self, level: Level, len: u64) -> u8 {
        const ONE_IN: u64 = 4;
        match level {
            Level::Fast => 1,
            Level::Small => 9,
            Level::Balanced => {
                let (all, hard) = &mut self.balanced;
                *all += len;
                if *hard * ONE_IN > *all {
                    return 5;
                }
                *hard += len;
                6
            }
        }
    }

    /// An empty buffer with the room that was given back last.
    pub fn take_room(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.room)
    }

    /// Keeps a buffer for the next job of this thread, unless it is one of the rare large ones.
    pub fn give_back(&mut self, mut room: Vec<u8>) {
        if room.capacity() <= KEPT {
            room.clear();
            self.room = room;
        }
    }

    /// Whether deflating a block saves anything, judged by a few samples from all over it.
    fn compresses(&mut self, input: &[u8]) -> bool {
        const SAMPLES: usize = 8;
        const SAMPLE: usize = 4 << 10;
        if input.len() < SAMPLES * SAMPLE * 4 {
            return true;
        }
        let (probe, scratch) = (compressor(&mut self.by_level, 1), &mut self.scratch);
        let stride = input.len() / SAMPLES;
        (0..SAMPLES).any(|n| {
            let sample = &input[n * stride..][..SAMPLE];
            let bound = probe.deflate_compress_bound(SAMPLE);
            if scratch.len() < bound {
                scratch.resize(bound, 0);
            }
            probe.deflate_compress(sample, scratch).is_ok_and(|n| n < SAMPLE - SAMPLE / 32)
        })
    }
}

fn compressor(by_level: &mut [Option<Compressor>; 13], n: u8) -> &mut Compressor {
    let level = || CompressionLvl::new(n.into()).expect("libdeflate's levels are 0 to 12");
    by_level[usize::from(n)].get_or_insert_with(|| Compressor::new(level()))
}
