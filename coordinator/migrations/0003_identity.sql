-- Certificates can be revoked, tokens too; who did what is kept.

-- Every certificate that was issued.
CREATE TABLE certificates (
    serial       TEXT PRIMARY KEY,
    role         TEXT NOT NULL,
    name         TEXT NOT NULL,
    issued_ms    BIGINT NOT NULL,
    not_after_ms BIGINT NOT NULL,
    ca           TEXT NOT NULL DEFAULT '', -- the SHA-256 of the root that signed it; '': the first one
    revoked_ms   BIGINT
);
CREATE INDEX certificates_by_owner ON certificates (role, name);
INSERT INTO certificates (serial, role, name, issued_ms, not_after_ms)
    SELECT serial, 'agent', name, enrolled_ms, not_after_ms FROM nodes;

-- NULL: good. A revoked node is not asked to do anything; it may rejoin.
ALTER TABLE nodes ADD COLUMN revoked_ms BIGINT;
ALTER TABLE tokens ADD COLUMN revoked_ms BIGINT;

-- What was done, by whom, from where, and with what result. Entries are only added; the oldest go when there are too many.
CREATE TABLE audit (
    number  BIGINT PRIMARY KEY,
    at_ms   BIGINT NOT NULL,
    who     TEXT NOT NULL,
    origin  TEXT NOT NULL,
    action  TEXT NOT NULL,
    subject TEXT NOT NULL,
    result  TEXT NOT NULL,
    detail  TEXT NOT NULL
);
