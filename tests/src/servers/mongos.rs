//! A stand-in for mongos, of which there is no binary to test with: it answers every command as mongos answers `hello`, and
//! knows nothing else.

use std::{
    io::{self, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    thread,
};

use mongodb::bson::{self, DateTime, doc};

/// Opcodes of MongoDB's wire protocol: the first greeting of a driver, its answer, and everything after.
const OP_REPLY: i32 = 1;
const OP_QUERY: i32 = 2004;
const OP_MSG: i32 = 2013;

/// See the module's text. Its thread ends with the process.
#[derive(Debug)]
pub struct StandInMongos {
    port: u16,
}

impl StandInMongos {
    /// Listens on a free port.
    ///
    /// # Panics
    /// When there is none.
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // A client that goes away ends its thread.
                thread::spawn(move || serve(stream));
            }
        });
        Self { port }
    }

    /// On 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }
}

fn serve(mut stream: TcpStream) -> io::Result<()> {
    loop {
        let mut header = [0; 16];
        stream.read_exact(&mut header)?;
        let number = |at: usize| i32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let (length, request, opcode) = (number(0), number(4), number(12));
        let mut body = vec![0; usize::try_from(length - 16).unwrap_or_default()];
        stream.read_exact(&mut body)?;
        let answer = doc! {
            "ok": 1, "msg": "isdbgrid", "ismaster": true, "isWritablePrimary": true, "helloOk": true,
            "minWireVersion": 0, "maxWireVersion": 17, "maxBsonObjectSize": 16_777_216,
            "maxMessageSizeBytes": 48_000_000, "maxWriteBatchSize": 100_000, "localTime": DateTime::now(),
        };
        let answer = bson::serialize_to_vec(&answer).map_err(io::Error::other)?;
        let (opcode, prefix) = match opcode {
            // Flags, cursor id, starting from, number returned.
            OP_QUERY => (OP_REPLY, [&[8_u8, 0, 0, 0][..], &[0; 12], &[1, 0, 0, 0]].concat()),
            // Flags, and a body section.
            _ => (OP_MSG, vec![0; 5]),
        };
        let mut out = Vec::new();
        let total = i32::try_from(16 + prefix.len() + answer.len()).map_err(io::Error::other)?;
        for word in [total, 1, request, opcode] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        out.extend_from_slice(&prefix);
        out.extend_from_slice(&answer);
        stream.write_all(&out)?;
    }
}
