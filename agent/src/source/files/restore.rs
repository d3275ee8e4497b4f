//! The verbs of a restore: the new tree is unpacked beside the live one and compared, exchanged with it, and the old
//! one removed or brought back. All blocking; what must be known after a crash is in the unit's notes.

use std::{
    fs, io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::Mutex,
};

use prexor_format::{
    manifest::{Contents, FilesContents, StoredFile},
    tree::{Attributes, InvalidPattern, Pattern, Totals, TreePath},
};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::{
    archive::{Archive, From, Survey},
    carry::{self, MadeDirectory},
    compare::Comparison,
    exchange::{self, Journal},
    os,
    part::Part,
    place::{NoPlace, Place},
    policy::Rules,
    space,
    unpack::{self, Destination},
};
use crate::{arriving::Arriving, discover::discover, restore_unit::RestoreUnit, source::SourceError};

/// [`Place`], from the moment at which something may lie there.
const PLACE: &str = "files-place";
/// [`Prepared`], once the new tree is whole.
const PREPARED: &str = "files-prepared";
/// Paths of directories that were made in the new tree for what is carried over.
const MADE: &str = "files-made";
/// [`Journal`], before the first rename.
const JOURNAL: &str = "files-journal";
/// What was unpacked; a file in the unit's directory, too large for a note.
const INDEX: &str = "files-index";

#[derive(Debug, Serialize, Deserialize)]
struct Prepared {
    totals: Totals,
    root: Attributes,
}

/// A restore of one unit to one root.
pub(super) struct Restore<'a> {
    pub(super) root: &'a Path,
    pub(super) unit: &'a RestoreUnit,
    /// What the configuration leaves out of captures now: it is in no newer backup, so a restore must not lose it.
    pub(super) excluded: &'a [Pattern],
    pub(super) stop: &'a CancellationToken,
}

impl Restore<'_> {
    fn contents(&self) -> Result<(&FilesContents, &StoredFile), SourceError> {
        match (&self.unit.artifact.contents, self.unit.artifact.files.as_slice()) {
            (Contents::Filesystem(contents), [file]) => Ok((contents, file)),
            _ => Err(SourceError::Invalid(format!("{} is no files artifact", self.unit.artifact.id))),
        }
    }

    fn rules(&self) -> Result<Rules, SourceError> {
        let patterns: Result<Vec<Pattern>, _> = self.contents()?.0.excluded.iter().map(|p| p.parse()).collect();
        let mut patterns = patterns.map_err(|e| SourceError::Invalid(e.to_string()))?;
        let known: Vec<String> = patterns.iter().map(ToString::to_string).collect();
        patterns.extend(self.excluded.iter().filter(|p| !known.contains(&p.to_string())).cloned());
        let part = self.part()?;
        for kept in part.kept() {
            patterns.push(kept.display().parse().map_err(|e: InvalidPattern| SourceError::Invalid(e.to_string()))?);
        }
        let mut rules = Rules::new(patterns);
        rules.made = self.made()?;
        rules.part = part;
        Ok(rules)
    }

    fn part(&self) -> Result<Part, SourceError> {
        Part::of(&self.unit.selection.paths, &self.unit.selection.keep)
    }

    fn index(&self) -> PathBuf {
        self.unit.dir().join(INDEX)
    }

    fn made(&self) -> Result<Vec<TreePath>, SourceError> {
        let made: Vec<MadeDirectory> = self.note(MADE)?.unwrap_or_default();
        Ok(made.iter().filter_map(MadeDirectory::path).collect())
    }

    fn note<T: serde::de::DeserializeOwned>(&self, name: &str) -> Result<Option<T>, SourceError> {
        self.unit.load_note::<Option<T>>(name).map(Option::flatten).map_err(|e| self.failed("reading its notes", &e))
    }

    fn save<T: Serialize>(&self, name: &str, note: Option<&T>) -> Result<(), SourceError> {
        self.unit.save_note(name, &note).map_err(|e| self.failed("keeping its notes", &e))
    }

    fn failed(&self, what: &str, e: &io::Error) -> SourceError {
        let text = format!("restoring {}: {what}: {e}", self.root.display());
        match e.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => SourceError::NoSpace(text),
            io::ErrorKind::PermissionDenied => SourceError::Denied(format!("{text}: prexor-agent must run as root")),
            _ => SourceError::Failed(text),
        }
    }

    /// Law L3: files of one controller never get onto the host of another.
    fn refuse_another_controller(&self, contents: &FilesContents) -> Result<(), SourceError> {
        let theirs = contents.controller.as_ref().and_then(|c| c.uuid.as_deref());
        // A configuration that cannot be read is what a restore is there for; it names no controller.
        let ours = discover(&[self.root]).ok().flatten().and_then(|d| d.uuid);
        match (theirs, ours) {
            (Some(theirs), Some(ours)) if *theirs != *ours => Err(SourceError::Invalid(format!(
                "the files are those of controller {theirs} ({}), and {} is controller {ours}: two controllers with \
                 one uuid would be a split brain. Restore on the host they came from, or restore with --datastores \
                 alone; if this host is to become {theirs}, move {} away first",
                self.unit.artifact.node,
                self.root.display(),
                self.root.display()
            ))),
            _ => Ok(()),
        }
    }

    /// Whether the archive is better unpacked while it arrives: all of it, with room beyond doubt. Where that is in
    /// doubt it is staged and looked at first.
    pub(super) fn takes_arriving(&self) -> bool {
        let look = || -> Result<bool, SourceError> {
            let (contents, part) = (self.contents()?.0, self.part()?);
            let plenty = self.roomy(contents);
            let begun = self.note::<Prepared>(PREPARED)?.is_some() || self.note::<Journal>(JOURNAL)?.is_some();
            Ok(plenty && part.paths().is_none() && !begun)
        };
        look().unwrap_or(false)
    }

    /// Whether every directory that the new tree may come to lie in has room beyond doubt: the one that holds the root,
    /// and the root itself, which may be a file system of its own.
    fn roomy(&self, contents: &FilesContents) -> bool {
        let real = self.root.canonicalize().unwrap_or_else(|_| self.root.to_owned());
        let holds = real.ancestors().skip(1).find(|dir| dir.is_dir());
        let own = Some(real.as_path()).filter(|dir| dir.is_dir());
        holds.is_some() && holds.into_iter().chain(own).all(|dir| space::is_plenty(dir, contents).unwrap_or(false))
    }

    pub(super) fn prepare_arriving(&self, file: Arriving) -> Result<(), SourceError> {
        self.prepare_from(From::Arriving(&Mutex::new(Some(file))))
    }

    pub(super) fn prepare(&self) -> Result<(), SourceError> {
        let staged = self.unit.staged(self.contents()?.1);
        self.prepare_from(From::Staged(&staged))
    }

    fn prepare_from(&self, from: From<'_>) -> Result<(), SourceError> {
        if self.note::<Journal>(JOURNAL)?.is_some() {
            if self.note::<Prepared>(PREPARED)?.is_some() {
                return Ok(());
            }
            // A revert was begun and not finished.
            self.revert()?;
        }
        let (contents, stored) = self.contents()?;
        if let (Some(place), Some(_)) = (self.note::<Place>(PLACE)?, self.note::<Prepared>(PREPARED)?)
            && place.aside().is_dir()
        {
            return Ok(());
        }
        self.refuse_another_controller(contents)?;
        self.clear()?;
        let (rules, part) = (self.rules()?, self.part()?);
        let archive = Archive { from, stored, contents, part: &part, stop: self.stop };
        let survey = self.survey(&archive)?;
        let place = Place::find(self.root, &self.unit.job_id, rules.patterns(), &part).map_err(|e| match e {
            NoPlace::Impossible(text) => SourceError::Invalid(text),
            NoPlace::Io(e) => self.failed("finding a place for the new tree", &e),
        })?;
        exchange::swapped_paths(&place, &part).map_err(|e| SourceError::Invalid(e.to_string()))?;
        let beside = place.shelter().parent().unwrap_or(self.root);
        space::check(beside, &archive, &survey)?;
        self.save(PLACE, Some(&place))?;
        let prepared = self.unpack_beside(&place, &archive, &survey, &rules);
        if prepared.is_err() {
            // The first error is the one to tell; what this leaves behind the next prepare or revert removes.
            let _ = place.changing_shelter(os::remove_tree);
        }
        self.save(PREPARED, Some(&prepared?))
    }

    /// Looks for a part in the archive; there is nothing to look for when it is everything.
    fn survey(&self, archive: &Archive<'_>) -> Result<Survey, SourceError> {
        if archive.part.paths().is_none() {
            return Ok(Survey::default());
        }
        let survey = archive.survey()?;
        if survey.missing.is_empty() {
            return Ok(survey);
        }
        let missing: Vec<String> = survey.missing.iter().map(|p| format!("'{p}'")).collect();
        Err(SourceError::Invalid(format!(
            "the backup has no {}: `tar -tzf` lists what is in its {}",
            missing.join(" and no "),
            archive.stored.path
        )))
    }

    fn unpack_beside(
        &self,
        place: &Place,
        archive: &Archive<'_>,
        survey: &Survey,
        rules: &Rules,
    ) -> Result<Prepared, SourceError> {
        let making = |e: io::Error| self.failed("making the directory of the new tree", &e);
        place.changing_shelter(os::remove_tree).map_err(making)?;
        let mut private = fs::DirBuilder::new();
        private.mode(0o700);
        place.changing_shelter(|shelter| private.create(shelter)).map_err(making)?;
        let empty = |path: PathBuf| private.create(&path).and_then(|()| os::open_dir_path(&path)).map_err(making);
        let (tree, held, index) = (empty(place.aside())?, empty(place.held())?, self.index());
        let into = Destination { tree, held, index: &index };
        let unpacked = unpack::unpack(archive, survey, into, &self.unit.progress)?;
        os::remove_tree(&place.held()).map_err(making)?;
        let both = carry::carried_paths(&place.aside(), rules.patterns()).map_err(making)?;
        if !both.is_empty() {
            let paths: Vec<String> = both.iter().map(ToString::to_string).collect();
            return Err(SourceError::Invalid(format!(
                "the archive holds {}, which agent.yml excludes now and a restore would keep as it is: take it out of \
                 filesystem.exclude to restore it too, or move the live one away",
                paths.join(", ")
            )));
        }
        let differences = self.compare(&place.aside(), rules, &unpacked.restored)?;
        if !differences.is_empty() {
            let text = differences.join("; ");
            return Err(SourceError::Failed(format!("the unpacked tree is not what the archive holds: {text}")));
        }
        let parent = place.shelter().parent().unwrap_or(self.root);
        os::open_dir_path(parent).and_then(|d| Ok(rustix::fs::fsync(d)?)).map_err(making)?;
        Ok(Prepared { totals: unpacked.restored, root: unpacked.root })
    }

    fn compare(&self, tree: &Path, rules: &Rules, expected: &Totals) -> Result<Vec<String>, SourceError> {
        Comparison { tree, rules, expected, index: &self.index(), stop: self.stop }.differences()
    }

    pub(super) fn swap(&self) -> Result<(), SourceError> {
        let (place, prepared) = self.prepared()?;
        let journal = match self.note::<Journal>(JOURNAL)? {
            Some(journal) => journal,
            None => self.plan_swap(&place, &prepared)?,
        };
        journal.forward().map_err(|e| self.failed("exchanging the trees", &e))
    }

    fn prepared(&self) -> Result<(Place, Prepared), SourceError> {
        match (self.note(PLACE)?, self.note(PREPARED)?) {
            (Some(place), Some(prepared)) => Ok((place, prepared)),
            _ => Err(SourceError::Failed("the files are not prepared: prepare them again".to_owned())),
        }
    }

    fn plan_swap(&self, place: &Place, prepared: &Prepared) -> Result<Journal, SourceError> {
        let planning = |e: io::Error| self.failed("planning the exchange of the trees", &e);
        let part = self.part()?;
        let mut carried = carry::carried_paths(place.root(), self.rules()?.patterns()).map_err(planning)?;
        carried.retain(|path| part.covers(path));
        let mut made: Vec<MadeDirectory> = self.note(MADE)?.unwrap_or_default();
        carry::plan_parents(place, &carried, &mut made).map_err(planning)?;
        self.save(MADE, Some(&made))?;
        made.iter().try_for_each(|m| m.make(place)).map_err(planning)?;
        let journal = Journal::plan(place, &part, &carried, &prepared.root).map_err(planning)?;
        self.save(JOURNAL, Some(&journal))?;
        Ok(journal)
    }

    pub(super) fn revert(&self) -> Result<(), SourceError> {
        if let Some(journal) = self.note::<Journal>(JOURNAL)? {
            journal.backward().map_err(|e| self.failed("exchanging the trees back", &e))?;
            // What was live is no longer as it was unpacked: a further prepare begins anew.
            self.save::<Prepared>(PREPARED, None)?;
            self.save::<Journal>(JOURNAL, None)?;
        }
        self.clear()
    }

    /// Removes the tree aside: only called while that is the new one.
    fn clear(&self) -> Result<(), SourceError> {
        if let Some(place) = self.note::<Place>(PLACE)? {
            self.save::<Prepared>(PREPARED, None)?;
            self.remove_shelter(&place)?;
            self.save::<Vec<MadeDirectory>>(MADE, None)?;
            self.save::<Place>(PLACE, None)?;
        }
        Ok(())
    }

    fn remove_shelter(&self, place: &Place) -> Result<(), SourceError> {
        let removing = |e: io::Error| self.failed(&format!("removing {}", place.shelter().display()), &e);
        if let Some(mount) = os::mounts_within(place.shelter()).map_err(removing)?.first() {
            return Err(removing(io::Error::other(format!("{} is a mount point: unmount it first", mount.display()))));
        }
        place.changing_shelter(os::remove_tree).map_err(removing)
    }

    pub(super) fn commit(&self) -> Result<(), SourceError> {
        let (place, journal) = (self.note::<Place>(PLACE)?, self.note::<Journal>(JOURNAL)?);
        let (Some(place), Some(journal)) = (place, journal) else {
            return Err(SourceError::Failed("the files were not exchanged: there is nothing to let go of".to_owned()));
        };
        if !journal.is_exchanged().map_err(|e| self.failed("looking at the trees", &e))? {
            return Err(SourceError::Failed("the new tree is not live as a whole: swap or revert first".to_owned()));
        }
        self.remove_shelter(&place)
    }

    pub(super) fn check(&self) -> Result<Vec<String>, SourceError> {
        let (place, prepared) = self.prepared()?;
        self.compare(place.root(), &self.rules()?, &prepared.totals)
    }
}
