//! A file on its way in, for a source that uses it at once instead of having it staged: the bytes go through a short queue
//! to a thread that reads them.
//!
//! The end of the stream is told apart from its loss: only who compared size and digest with the manifest can end it.

use std::io::{self, Read};

use bytes::{Buf as _, Bytes};
use tokio::sync::mpsc;

/// Chunks that wait to be read; the coordinator sends a MiB at a time.
const QUEUE: usize = 4;

#[derive(Debug)]
enum Step {
    Data(Bytes),
    /// Everything came, and it is what the manifest says.
    Verified,
}

/// The writing end. Dropped without [`Feed::verified`], the reader gets an error.
#[derive(Debug)]
pub struct Feed(mpsc::Sender<Step>);

/// The reading end, for a blocking thread. It ends only when the whole file was found to be the manifest's.
#[derive(Debug)]
pub struct Arriving {
    steps: mpsc::Receiver<Step>,
    now: Bytes,
    ended: bool,
}

/// Both ends.
pub fn arriving() -> (Feed, Arriving) {
    let (tx, steps) = mpsc::channel(QUEUE);
    (Feed(tx), Arriving { steps, now: Bytes::new(), ended: false })
}

/// Nobody reads any more: what the reader came to says why.
#[derive(Debug)]
pub struct NotRead;

impl Feed {
    /// Hands over the next bytes, once there is room.
    ///
    /// # Errors
    /// When the reader has given up.
    pub async fn data(&self, data: Bytes) -> Result<(), NotRead> {
        self.0.send(Step::Data(data)).await.map_err(|_| NotRead)
    }

    /// Ends the stream well.
    ///
    /// # Errors
    /// When the reader has given up.
    pub async fn verified(self) -> Result<(), NotRead> {
        self.0.send(Step::Verified).await.map_err(|_| NotRead)
    }
}

impl Read for Arriving {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.now.is_empty() && !self.ended {
            match self.steps.blocking_recv() {
                Some(Step::Data(data)) => self.now = data,
                Some(Step::Verified) => self.ended = true,
                None => return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the transfer was cut short")),
            }
        }
        let n = self.now.len().min(buf.len());
        buf[..n].copy_from_slice(&self.now[..n]);
        self.now.advance(n);
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_all(mut file: Arriving) -> io::Result<Vec<u8>> {
        let mut all = Vec::new();
        file.read_to_end(&mut all).map(|_| all)
    }

    #[tokio::test]
    async fn only_a_verified_stream_ends() {
        for verified in [true, false] {
            let (feed, file) = arriving();
            let reader = tokio::task::spawn_blocking(|| read_all(file));
            for n in 0..20_u8 {
                feed.data(Bytes::from(vec![n; 3])).await.unwrap();
            }
            if verified {
                feed.verified().await.unwrap();
            } else {
                drop(feed);
            }
            match reader.await.unwrap() {
                Ok(all) => assert_eq!((verified, all.len()), (true, 60)),
                Err(e) => assert_eq!((verified, e.kind()), (false, io::ErrorKind::ConnectionAborted)),
            }
        }
    }

    #[tokio::test]
    async fn a_reader_that_gave_up_is_noticed() {
        let (feed, file) = arriving();
        drop(file);
        assert!(feed.data(Bytes::from_static(b"x")).await.is_err());
    }
}
