-- +goose Up
-- All that was said in an enrolment is kept with what came of it.
ALTER TABLE intakes ADD COLUMN request TEXT NOT NULL DEFAULT 'null';  -- JSON: the initial connection
ALTER TABLE intakes ADD COLUMN exporter BLOB NOT NULL DEFAULT x'';    -- of its TLS connection
ALTER TABLE intakes ADD COLUMN submitted INTEGER;                     -- when N:S came
ALTER TABLE intakes ADD COLUMN replaces BLOB;                         -- node_id of the node whose place it takes
CREATE INDEX intakes_entry ON intakes (ca, log, idx);

-- What the policy needs to judge a node again, and whether it is held.
ALTER TABLE nodes ADD COLUMN issuer TEXT NOT NULL DEFAULT '';         -- of the EK certificate
ALTER TABLE nodes ADD COLUMN rule TEXT NOT NULL DEFAULT '';           -- of the policy
ALTER TABLE nodes ADD COLUMN token TEXT NOT NULL DEFAULT '';          -- names that its join token was good for
ALTER TABLE nodes ADD COLUMN token_roles TEXT NOT NULL DEFAULT 'null';
ALTER TABLE nodes ADD COLUMN held TEXT NOT NULL DEFAULT '';           -- why it is not renewed
ALTER TABLE nodes ADD COLUMN attested INTEGER;                        -- when it last attested a good state
ALTER TABLE nodes ADD COLUMN attest_now INTEGER NOT NULL DEFAULT 0;   -- 1: an operator wants it to attest
-- How many live nodes a chip may have is the policy's to say.
DROP INDEX nodes_ek;
CREATE INDEX nodes_ek ON nodes (ek_digest);

-- Chips that the operator bought.
CREATE TABLE ek_lists (
    list TEXT NOT NULL,
    ek   BLOB NOT NULL,                -- SHA-256 over the EK's SubjectPublicKeyInfo
    note TEXT NOT NULL DEFAULT '',     -- such as the machine's serial number
    PRIMARY KEY (list, ek)
);
CREATE INDEX ek_lists_ek ON ek_lists (ek);

-- Who approved what. An operator counts once.
CREATE TABLE approvals (
    intake   BLOB NOT NULL,
    operator TEXT NOT NULL,
    at       INTEGER NOT NULL,
    PRIMARY KEY (intake, operator)
);

-- Each policy that was in force. The last one is.
CREATE TABLE policies (
    version  INTEGER PRIMARY KEY,
    hash     TEXT NOT NULL,            -- SHA-256 over the text, hexadecimal
    text     TEXT NOT NULL,
    operator TEXT NOT NULL,
    at       INTEGER NOT NULL
);

-- What nodes attested after their enrolment.
CREATE TABLE attestations (
    id       INTEGER PRIMARY KEY,
    node_id  BLOB NOT NULL,
    at       INTEGER NOT NULL,
    good     INTEGER NOT NULL,
    reason   TEXT NOT NULL,            -- why it is not
    evidence TEXT NOT NULL             -- JSON
);
CREATE INDEX attestations_node ON attestations (node_id, at);

-- +goose Down
DROP TABLE attestations; DROP TABLE policies; DROP TABLE approvals; DROP TABLE ek_lists;
DROP INDEX nodes_ek; CREATE UNIQUE INDEX nodes_ek ON nodes (ek_digest) WHERE state = 'active';
DROP INDEX intakes_entry;
