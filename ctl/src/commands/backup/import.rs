//! `prexorctl backup import`: sends a dump that lies on this host to the coordinator, which makes a backup of it.

use std::{
    io::Read as _,
    path::{Path, PathBuf},
};

use prexor_format::{digest::Hasher, manifest::Contents, mongodump, text::things};
use prexor_proto::backup::{ImportBackupRequest, ImportBegin, ImportEnd, import_backup_request::Frame};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{create, dump::Dump};
use crate::{
    client::{self, Client},
    exit::Exit,
    failure::Failure,
    printer::Printer,
    view::BackupView,
};

/// Bytes per message.
const PIECE: usize = 256 << 10;

/// Messages that wait for the coordinator.
const IN_FLIGHT: usize = 8;

/// Reads a dump, sends it, and prints the backup.
///
/// # Errors
/// When the dump is damaged, or the coordinator does not take it.
pub async fn run(printer: &Printer, dir: PathBuf, description: String) -> Result<Exit, Failure> {
    // All of it is read before anything is sent: half a dump is no backup.
    let dump = tokio::task::spawn_blocking(move || Dump::read(&dir)).await;
    let dump = dump.map_err(|e| Failure::local(e.to_string()))??;
    for note in &dump.survey.notes {
        printer.note(note);
    }
    let found = &dump.survey.contents;
    printer.note(&format!(
        "sending {} of {}",
        things(found.collections.len() as u64, "collection"),
        found.databases.join(", ")
    ));
    let client = Client::connect().await?;
    let (tx, rx) = mpsc::channel(IN_FLIGHT);
    let sending = tokio::task::spawn_blocking(move || send(&dump, description, &tx));
    let imported = client.services().backups().import_backup(ReceiverStream::new(rx)).await;
    let sent = sending.await.map_err(|e| Failure::local(e.to_string()))?;
    // Why the coordinator hung up is worth more than that it did.
    let backup = imported.map_err(|status| client::failure(&status));
    let backup = match (sent, backup) {
        (Err(Some(failure)), _) => return Err(failure),
        (_, backup) => backup?.into_inner(),
    };
    printer.lines(create::lines(&backup));
    for warning in &backup.warnings {
        printer.warning(warning);
    }
    printer.document(&BackupView::from(&backup));
    Ok(Exit::Ok)
}

/// Blocking. `Err(None)`: the coordinator hung up.
fn send(dump: &Dump, description: String, tx: &mpsc::Sender<ImportBackupRequest>) -> Result<(), Option<Failure>> {
    let put = |frame| tx.blocking_send(ImportBackupRequest { frame: Some(frame) }).map_err(|_| None);
    let hostname = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let notes = dump.survey.notes.clone();
    put(Frame::Begin(ImportBegin { description, hostname, format: dump.format().to_owned(), notes }))?;
    let contents = serde_json::to_string(&Contents::Mongo(dump.survey.contents.clone()));
    let contents = contents.map_err(|e| Some(Failure::local(e.to_string())))?;
    for piece in contents.chars().collect::<Vec<_>>().chunks(PIECE / 4) {
        put(Frame::ContentsJson(piece.iter().collect()))?;
    }
    for path in &dump.survey.files {
        put(Frame::FilePath(format!("{}/{path}", mongodump::ROOT)))?;
        send_file(dump, path, &put)?;
    }
    put(Frame::End(ImportEnd {}))
}

fn send_file(
    dump: &Dump,
    path: &str,
    put: &impl Fn(Frame) -> Result<(), Option<Failure>>,
) -> Result<(), Option<Failure>> {
    let unreadable =
        |e: std::io::Error| Some(Failure::local(format!("{} cannot be read: {e}", Path::new(path).display())));
    let (mut file, mut hasher) = (dump.open(path).map_err(unreadable)?, Hasher::default());
    loop {
        let mut piece = vec![0; PIECE];
        let n = file.read(&mut piece).map_err(unreadable)?;
        if n == 0 {
            return put(Frame::FileSha256(hasher.finish().0.to_vec()));
        }
        piece.truncate(n);
        hasher.update(&piece);
        put(Frame::Data(piece))?;
    }
}
