-- Which backups stay, and which count as good ones.

-- How much is in it; NULL: it holds none of this, or is measured against no other (saved by a restore, imported, damaged).
ALTER TABLE backups ADD COLUMN documents BIGINT;
ALTER TABLE backups ADD COLUMN key_count BIGINT;
-- What it has lost against the one before.
ALTER TABLE backups ADD COLUMN suspect TEXT NOT NULL DEFAULT '';

-- What the marks beside the manifest say. NULL: there is none.
ALTER TABLE backups ADD COLUMN pinned_ms BIGINT;
ALTER TABLE backups ADD COLUMN pinned_by TEXT NOT NULL DEFAULT '';
ALTER TABLE backups ADD COLUMN pin_reason TEXT NOT NULL DEFAULT '';
ALTER TABLE backups ADD COLUMN accepted_ms BIGINT;
ALTER TABLE backups ADD COLUMN first_verified_ms BIGINT;
ALTER TABLE backups ADD COLUMN verified_depth TEXT NOT NULL DEFAULT '';
ALTER TABLE backups ADD COLUMN verify_problem TEXT NOT NULL DEFAULT '';
ALTER TABLE backups ADD COLUMN superseded_ms BIGINT;
UPDATE backups SET first_verified_ms = verified_ms;

-- What is in the index is read again: it has more to say now.
UPDATE backups SET stamp = '';
