//! What putting keys in by the thousand needs beyond `wire`: refusals as errors, commands that are put together in parts.

use tokio_util::sync::CancellationToken;

use super::{
    SourceError,
    address::Address,
    client::Info,
    wire::{Reply, Wire, encode},
};

/// See the module's text.
pub(super) struct Raw(Wire);

impl Raw {
    /// Connects and logs in. Nothing cancels a verb of a restore half way: it is taken back instead.
    pub(super) fn connect(address: &Address) -> Result<Self, SourceError> {
        Wire::connect(address, &CancellationToken::new()).map(Self)
    }

    /// Sends a command and waits for its answer; a refusal is an error.
    pub(super) fn ask(&mut self, args: &[&[u8]]) -> Result<Reply, SourceError> {
        let reply = self.0.ask(args)?;
        self.accepted(args.first().copied().unwrap_or_default(), reply)
    }

    /// Sends what [`command`] and the like have put together.
    pub(super) fn send(&mut self, commands: &[u8]) -> Result<(), SourceError> {
        let sent = self.0.send_encoded(commands);
        // A server that refuses says why before it hangs up.
        sent.map_err(|e| match self.0.reply() {
            Ok(Reply::Error(said)) => self.0.address().refusal("a command", &said),
            _ => e,
        })
    }

    /// Makes an error of a refusal.
    pub(super) fn accepted(&self, doing: &[u8], reply: Reply) -> Result<Reply, SourceError> {
        match reply {
            Reply::Error(said) => Err(self.0.address().refusal(&String::from_utf8_lossy(doing), &said)),
            reply => Ok(reply),
        }
    }

    /// A setting; `None` where the server has none of this name, or does not show it to this account.
    pub(super) fn setting(&mut self, name: &str) -> Result<Option<String>, SourceError> {
        match self.ask(&[b"CONFIG", b"GET", name.as_bytes()]) {
            Ok(Reply::Array(pair)) => Ok(match pair.into_iter().nth(1) {
                Some(Reply::Bulk(text)) => String::from_utf8(text).ok(),
                _ => None,
            }),
            Ok(_) | Err(SourceError::Denied(_) | SourceError::Failed(_)) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Changes a setting, where this account may.
    pub(super) fn set(&mut self, name: &str, value: &str) -> Result<(), SourceError> {
        match self.ask(&[b"CONFIG", b"SET", name.as_bytes(), value.as_bytes()]) {
            Ok(_) | Err(SourceError::Denied(_) | SourceError::Failed(_)) => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// One of the server's own figures; empty where it has none of this name.
    pub(super) fn info(&mut self, name: &str) -> Result<String, SourceError> {
        let Reply::Bulk(text) = self.ask(&[b"INFO"])? else { return Ok(String::new()) };
        Ok(Info::parse(&String::from_utf8_lossy(&text)).text(name).to_owned())
    }

    /// The next replies, so many; a refusal among them is an error.
    pub(super) fn replies(&mut self, mut n: usize, doing: &[u8]) -> Result<(), SourceError> {
        while n > 0 {
            n -= match self.0.oks(n)? {
                0 => {
                    let reply = self.0.reply()?;
                    self.accepted(doing, reply)?;
                    1
                }
                oks => oks,
            };
        }
        Ok(())
    }
}

/// Appends a command.
pub(super) fn command(out: &mut Vec<u8>, args: &[&[u8]]) {
    encode(args, out);
}

/// Appends the head of a command with so many arguments.
pub(super) fn head(out: &mut Vec<u8>, args: usize) {
    number(out, b'*', args as u64);
}

/// Appends an argument.
pub(super) fn argument(out: &mut Vec<u8>, arg: &[u8]) {
    argument_begins(out, arg.len() as u64);
    out.extend_from_slice(arg);
    out.extend_from_slice(b"\r\n");
}

/// Appends what comes before an argument's bytes.
pub(super) fn argument_begins(out: &mut Vec<u8>, len: u64) {
    number(out, b'$', len);
}

/// A number between its mark and the end of the line; there are several of them in every command.
fn number(out: &mut Vec<u8>, mark: u8, mut n: u64) {
    let (mut digits, mut at) = ([0; 20], 20);
    loop {
        at -= 1;
        digits[at] = b'0' + (n % 10) as u8;
        n /= 10;
        if n == 0 {
            break;
        }
    }
    out.push(mark);
    out.extend_from_slice(&digits[at..]);
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_can_be_put_together_in_parts() {
        let (mut whole, mut parts) = (Vec::new(), Vec::new());
        let key = [b'k'; 1234];
        command(&mut whole, &[b"GET", &key, b""]);
        head(&mut parts, 3);
        argument(&mut parts, b"GET");
        argument(&mut parts, &key);
        argument_begins(&mut parts, 0);
        parts.extend_from_slice(b"\r\n");
        assert_eq!(parts, whole);
    }
}
