-- +goose Up
-- Each act of revocation: one command, however much it revokes.
CREATE TABLE revocations (
    id           INTEGER PRIMARY KEY,
    at           INTEGER NOT NULL,
    code         INTEGER NOT NULL,           -- CRLReason, RFC 5280 section 5.3.1
    reason       TEXT NOT NULL,              -- for people
    operator     TEXT NOT NULL,
    action       TEXT NOT NULL,              -- as in the audit log
    subject      TEXT NOT NULL,
    list         BLOB NOT NULL,              -- SHA-256 over the selectors, as far as they were taken
    selectors    INTEGER NOT NULL,
    unknown      INTEGER NOT NULL,
    nodes        INTEGER NOT NULL,
    certificates INTEGER NOT NULL,
    already      INTEGER NOT NULL,
    expired      INTEGER NOT NULL,
    under_way    INTEGER NOT NULL            -- 1 until it is in the audit log
);
CREATE INDEX revocations_under_way ON revocations (under_way) WHERE under_way = 1;

-- What is revoked. Entries of the log do not change any more, and a list is
-- made without going through them.
CREATE TABLE revoked (
    ca         TEXT NOT NULL,
    log        INTEGER NOT NULL,
    idx        INTEGER NOT NULL,
    revocation INTEGER NOT NULL,
    PRIMARY KEY (ca, log, idx)
) WITHOUT ROWID;

-- The nodes that a transaction is about to revoke. Empty between transactions.
CREATE TABLE chosen (
    line    INTEGER NOT NULL,                -- of the operator's list
    node_id BLOB NOT NULL,
    live    INTEGER NOT NULL
);

ALTER TABLE nodes ADD COLUMN reason_code INTEGER NOT NULL DEFAULT 0;

-- One act for each time and reason that there is.
INSERT INTO revocations (at, code, reason, operator, action, subject, list, selectors, unknown, nodes, certificates, already, expired, under_way)
    SELECT revoked, 0, reason, '', '', '', x'', 0, 0, 0, COUNT(*), 0, 0, 0 FROM entries WHERE revoked IS NOT NULL GROUP BY revoked, reason;
INSERT INTO revoked (ca, log, idx, revocation)
    SELECT e.ca, e.log, e.idx, r.id FROM entries e JOIN revocations r ON r.at = e.revoked AND r.reason = e.reason WHERE e.revoked IS NOT NULL;
DROP INDEX entries_revoked;
ALTER TABLE entries DROP COLUMN revoked;
ALTER TABLE entries DROP COLUMN reason;

-- +goose Down
ALTER TABLE entries ADD COLUMN revoked INTEGER;
ALTER TABLE entries ADD COLUMN reason TEXT NOT NULL DEFAULT '';
UPDATE entries SET (revoked, reason) = (SELECT r.at, r.reason FROM revoked v JOIN revocations r ON r.id = v.revocation
        WHERE v.ca = entries.ca AND v.log = entries.log AND v.idx = entries.idx)
    WHERE EXISTS (SELECT 1 FROM revoked v WHERE v.ca = entries.ca AND v.log = entries.log AND v.idx = entries.idx);
CREATE INDEX entries_revoked ON entries (ca, log, idx) WHERE revoked IS NOT NULL;
ALTER TABLE nodes DROP COLUMN reason_code;
DROP TABLE chosen; DROP TABLE revoked; DROP TABLE revocations;
