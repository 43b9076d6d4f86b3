-- +goose Up
-- Times are seconds since 1970. Log indexes and CRL numbers fit 63 bits.

-- What the coordinator is: fleet identity, and floors of its counters.
CREATE TABLE settings (
    name  TEXT PRIMARY KEY,
    value BLOB NOT NULL
);

CREATE TABLE tokens (
    id        BLOB PRIMARY KEY,
    key       BLOB NOT NULL,           -- derived; the secret is not kept
    names     TEXT NOT NULL,           -- glob that a node's name must match
    roles     TEXT NOT NULL,           -- JSON array
    approve   INTEGER NOT NULL,        -- 1: an operator must approve
    uses_left INTEGER NOT NULL,
    created   INTEGER NOT NULL,
    expires   INTEGER NOT NULL
);

CREATE TABLE nodes (
    node_id    BLOB PRIMARY KEY,
    name       TEXT NOT NULL,
    state      TEXT NOT NULL,          -- active | revoked
    node_key   BLOB NOT NULL,          -- N:PK, SubjectPublicKeyInfo
    ak_public  BLOB NOT NULL,          -- TPMT_PUBLIC
    ek_digest  BLOB NOT NULL,          -- SHA-256 over the EK's SubjectPublicKeyInfo
    assurance  INTEGER NOT NULL,
    simulator  INTEGER NOT NULL,
    roles      TEXT NOT NULL,          -- JSON array
    chip       TEXT NOT NULL,          -- JSON
    seal       TEXT NOT NULL,          -- JSON, null if N:SK is not sealed
    enrolled   INTEGER NOT NULL,
    revoked    INTEGER,
    reason     TEXT NOT NULL DEFAULT '',
    address    TEXT NOT NULL DEFAULT '',
    seen       INTEGER NOT NULL DEFAULT 0
);
-- One live node a name, and one live node a chip.
CREATE UNIQUE INDEX nodes_name ON nodes (name) WHERE state = 'active';
CREATE UNIQUE INDEX nodes_ek   ON nodes (ek_digest) WHERE state = 'active';

-- One attempt at enrolment or renewal.
CREATE TABLE intakes (
    id         BLOB PRIMARY KEY,
    node_id    BLOB NOT NULL,
    name       TEXT NOT NULL,
    state      TEXT NOT NULL,          -- open | pending | approved | issued | refused
    renewal    INTEGER NOT NULL,
    token      BLOB,                   -- NULL for a renewal
    facts      TEXT NOT NULL,          -- JSON: what the initial connection established
    activation BLOB NOT NULL,          -- the answer that proves activation
    cans_hash  BLOB NOT NULL,          -- hash of the CA:N:S body
    n_s        BLOB,                   -- as submitted
    evidence   TEXT NOT NULL DEFAULT '',
    ca         TEXT,                   -- of the entry, once issued
    log        INTEGER,
    idx        INTEGER,
    reason     TEXT NOT NULL DEFAULT '',
    created    INTEGER NOT NULL,
    expires    INTEGER NOT NULL
);
CREATE INDEX intakes_node ON intakes (node_id);
CREATE INDEX intakes_state ON intakes (state);

-- The issuance log. Rows are never deleted or changed, but for revocation.
CREATE TABLE entries (
    ca        TEXT NOT NULL,
    log       INTEGER NOT NULL,
    idx       INTEGER NOT NULL,
    entry     BLOB NOT NULL,           -- MTCLogEntry
    leaf      BLOB NOT NULL,           -- its hash
    spki      BLOB NOT NULL,           -- the certificate's key; the entry has its hash only
    node_id   BLOB NOT NULL,
    not_after INTEGER NOT NULL,
    revoked   INTEGER,
    reason    TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (ca, log, idx)
);
CREATE INDEX entries_node ON entries (node_id);
CREATE INDEX entries_revoked ON entries (ca, log, idx) WHERE revoked IS NOT NULL;

-- Messages that were fixed for CA:SK to sign. signature is NULL until then;
-- whatever is found unsigned at start is signed first.
CREATE TABLE subtrees (
    ca          TEXT NOT NULL,
    log         INTEGER NOT NULL,
    batch_start INTEGER NOT NULL,      -- first index of the batch
    tree_start  INTEGER NOT NULL,
    tree_end    INTEGER NOT NULL,      -- one past the last index of the batch
    root        BLOB NOT NULL,
    signature   BLOB,
    PRIMARY KEY (ca, log, tree_end)
);
CREATE TABLE checkpoints (
    ca        TEXT NOT NULL,
    log       INTEGER NOT NULL,
    size      INTEGER NOT NULL,
    root      BLOB NOT NULL,
    at        INTEGER NOT NULL,
    signature BLOB,
    PRIMARY KEY (ca, log, size, at)
);
CREATE TABLE crls (
    number    INTEGER PRIMARY KEY,
    list      BLOB NOT NULL,           -- without signature
    signature BLOB
);
CREATE TABLE pointers (
    seq       INTEGER PRIMARY KEY,
    record    BLOB NOT NULL            -- signed; written once
);

-- Boot states that nodes asked to have approved.
CREATE TABLE reseals (
    node_id   BLOB PRIMARY KEY,
    epoch     INTEGER NOT NULL,
    pcrs      TEXT NOT NULL,           -- JSON: values as quoted
    asked     INTEGER NOT NULL,
    state     TEXT NOT NULL,           -- pending | approved
    signature BLOB
);

-- +goose Down
DROP TABLE reseals; DROP TABLE pointers; DROP TABLE crls; DROP TABLE checkpoints; DROP TABLE subtrees;
DROP TABLE entries; DROP TABLE intakes; DROP TABLE nodes; DROP TABLE tokens; DROP TABLE settings;
