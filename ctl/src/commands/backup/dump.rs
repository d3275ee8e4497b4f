//! A mongodump directory on this host: what lies in it, read through once.

use std::{
    fs::{self, File},
    io::{self, BufReader, Read as _},
    path::{Path, PathBuf},
};

use prexor_format::mongodump::{self, Survey, survey};

use crate::failure::Failure;

/// The first bytes of a `mongodump --archive`, and of one that is compressed.
const ARCHIVE: [u8; 4] = [0x6d, 0xe2, 0x99, 0x81];
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// Bytes read at once.
const BUFFER: usize = 256 << 10;

/// A dump whose every file was read.
#[derive(Debug)]
pub struct Dump {
    dir: PathBuf,
    /// What is in it.
    pub survey: Survey,
}

impl Dump {
    /// Reads a directory. Blocking.
    ///
    /// # Errors
    /// When it is none, or anything in it is damaged.
    pub fn read(dir: &Path) -> Result<Self, Failure> {
        let shown = dir.display();
        let unreadable = |e: io::Error| Failure::local(format!("{shown} cannot be read: {e}"));
        if !fs::metadata(dir).map_err(unreadable)?.is_dir() {
            return Err(not_a_directory(dir));
        }
        let mut paths = Vec::new();
        list(dir, "", &mut paths).map_err(unreadable)?;
        paths.sort();
        let survey = survey(&paths, |path| open(dir, path))
            .map_err(|e| Failure::damaged(format!("{}: {}", dir.join(&e.path).display(), e.what)))?;
        if survey.contents.collections.is_empty() {
            return Err(Failure::local(format!(
                "{shown} holds no dump: give the directory that mongodump was given as --out, in which each database has a \
                 directory of its own"
            )));
        }
        Ok(Self { dir: dir.to_owned(), survey })
    }

    /// Opens a file that the survey found. `path` is relative to the dump's directory.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(&self, path: &str) -> io::Result<BufReader<File>> {
        open(&self.dir, path)
    }

    /// Opens a file by its path within a backup.
    ///
    /// # Errors
    /// As [`Dump::open`].
    pub fn open_in_backup(&self, path: &str) -> io::Result<BufReader<File>> {
        let inside = path.strip_prefix(mongodump::ROOT).and_then(|rest| rest.strip_prefix('/'));
        inside.map_or_else(|| Err(io::ErrorKind::NotFound.into()), |path| self.open(path))
    }

    /// The format as a manifest names it.
    pub fn format(&self) -> &'static str {
        let compressed = self.survey.files.iter().any(|f| f.ends_with(".gz"));
        if compressed { mongodump::FORMAT } else { mongodump::PLAIN_FORMAT }
    }
}

fn open(dir: &Path, path: &str) -> io::Result<BufReader<File>> {
    Ok(BufReader::with_capacity(BUFFER, File::open(dir.join(path))?))
}

/// The files of the directory and of those in it, as `database/file`.
fn list(dir: &Path, prefix: &str, out: &mut Vec<String>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let name =
            name.to_str().ok_or_else(|| io::Error::other(format!("{name:?} is no name that mongodump gives")))?;
        if !fs::metadata(entry.path())?.is_dir() {
            out.push(format!("{prefix}{name}"));
        } else if prefix.is_empty() {
            list(&entry.path(), &format!("{name}/"), out)?;
        }
    }
    Ok(())
}

fn not_a_directory(path: &Path) -> Failure {
    let mut first = Vec::new();
    let read = File::open(path).and_then(|f| f.take(4).read_to_end(&mut first));
    let archive = read.is_ok() && (first == ARCHIVE || first.starts_with(&GZIP));
    let shown = path.display();
    Failure::usage(match archive {
        true => format!(
            "{shown} is a mongodump --archive, which is not read here: make a directory of it with `mongorestore \
             --archive` into a scratch server and `mongodump --out`"
        ),
        false => format!("{shown} is no directory: give the one that mongodump was given as --out"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_dump_is_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let said = |path: &Path| Dump::read(path).unwrap_err().message;
        assert!(said(dir.path()).contains("holds no dump"));
        assert!(said(&dir.path().join("gone")).contains("cannot be read"));
        let file = dir.path().join("file");
        for (bytes, word) in
            [(&ARCHIVE[..], "--archive"), (&[0x1f, 0x8b, 8, 0], "--archive"), (b"text", "no directory")]
        {
            fs::write(&file, bytes).unwrap();
            assert!(said(&file).contains(word), "{}", said(&file));
        }
        fs::create_dir(dir.path().join("db")).unwrap();
        fs::write(dir.path().join("db/a.bson"), b"").unwrap();
        assert!(said(dir.path()).contains("db/a.bson: its metadata file is missing"), "{}", said(dir.path()));
    }
}
