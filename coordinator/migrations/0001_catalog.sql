-- The catalog. Portable between SQLite and PostgreSQL: TEXT, BIGINT and BYTEA only (SQLite takes any type name).
-- Times are milliseconds since the epoch, UTC. BYTEA columns hold protobuf messages of the client API, whose own rules
-- keep them readable across versions.

CREATE TABLE meta (
    name  TEXT PRIMARY KEY,
    value BIGINT NOT NULL
);

CREATE TABLE nodes (
    name         TEXT PRIMARY KEY,
    hostname     TEXT NOT NULL,
    address      TEXT NOT NULL,
    serial       TEXT NOT NULL,
    not_after_ms BIGINT NOT NULL,
    enrolled_ms  BIGINT NOT NULL
);

CREATE TABLE tokens (
    id          TEXT PRIMARY KEY,
    hash        TEXT NOT NULL,
    role        TEXT NOT NULL,
    node        TEXT,
    description TEXT NOT NULL,
    created_by  TEXT NOT NULL,
    created_ms  BIGINT NOT NULL,
    expires_ms  BIGINT NOT NULL,
    spent_ms    BIGINT,
    spent_by    TEXT
);

CREATE TABLE jobs (
    id           TEXT PRIMARY KEY,
    request_id   TEXT NOT NULL UNIQUE,
    kind         TEXT NOT NULL,
    spec         BYTEA NOT NULL,
    state        TEXT NOT NULL,
    backup_id    TEXT,
    requested_by TEXT NOT NULL,
    created_ms   BIGINT NOT NULL,
    finished_ms  BIGINT,
    failure      BYTEA,
    result       BYTEA
);
CREATE INDEX jobs_by_time ON jobs (created_ms, id);
CREATE INDEX jobs_by_state ON jobs (state);

CREATE TABLE job_events (
    job_id TEXT NOT NULL REFERENCES jobs (id),
    seq    BIGINT NOT NULL,
    event  BYTEA NOT NULL,
    PRIMARY KEY (job_id, seq)
);

-- Who holds what: one row for each name that a running job has to itself.
CREATE TABLE leases (
    name        TEXT PRIMARY KEY,
    job_id      TEXT NOT NULL REFERENCES jobs (id),
    acquired_ms BIGINT NOT NULL
);

-- The highest number given out on each UTC day: numbers are never given out twice, not even after a delete.
CREATE TABLE backup_days (
    day         TEXT PRIMARY KEY,
    last_number BIGINT NOT NULL
);

-- An index of the store's manifests; it can be thrown away and made again.
CREATE TABLE backups (
    id          TEXT PRIMARY KEY,
    stamp       TEXT NOT NULL,
    created_ms  BIGINT NOT NULL,
    backup      BYTEA NOT NULL,
    verified_ms BIGINT
);
CREATE INDEX backups_by_time ON backups (created_ms, id);

-- Directories of the store that must go: captures under way, deletes that were begun.
CREATE TABLE doomed_backups (
    id     TEXT PRIMARY KEY,
    job_id TEXT REFERENCES jobs (id)
);

-- The journal of restores: what has been begun and what has been done.
CREATE TABLE restore_steps (
    job_id     TEXT NOT NULL REFERENCES jobs (id),
    number     BIGINT NOT NULL,
    state      TEXT NOT NULL,
    started_ms BIGINT NOT NULL,
    ended_ms   BIGINT,
    detail     TEXT NOT NULL,
    PRIMARY KEY (job_id, number)
);
