-- Jobs wait for each other; lists are in the order of creation whatever the clock did; of progress the newest is kept.

-- In the order in which jobs were asked for.
ALTER TABLE jobs ADD COLUMN number BIGINT NOT NULL DEFAULT 0;
UPDATE jobs SET number = (
    SELECT COUNT(*) FROM jobs AS j
    WHERE j.created_ms < jobs.created_ms OR (j.created_ms = jobs.created_ms AND j.id <= jobs.id)
);
CREATE UNIQUE INDEX jobs_by_number ON jobs (number);
DROP INDEX jobs_by_time;

-- When it began to run.
ALTER TABLE jobs ADD COLUMN started_ms BIGINT;
UPDATE jobs SET started_ms = created_ms;

-- What a job that has not ended has to itself, or waits for: kinds of artifacts, each on one node or ('') on all of them.
CREATE TABLE job_scopes (
    job_id TEXT NOT NULL REFERENCES jobs (id),
    kind   TEXT NOT NULL,
    node   TEXT NOT NULL,
    PRIMARY KEY (job_id, kind, node)
);
INSERT INTO job_scopes (job_id, kind, node) SELECT job_id, name, '' FROM leases;
DROP TABLE leases;

-- Whose progress an event is: it goes when there is a newer one. NULL for all other events, which stay.
ALTER TABLE job_events ADD COLUMN progress_of TEXT;

-- Where in lists the backups stand that were made here, as milliseconds since the epoch: the time of their creation, or
-- later where the clock stood before that of an earlier backup.
CREATE TABLE backup_orders (
    id       TEXT PRIMARY KEY,
    order_ms BIGINT NOT NULL
);
