-- +goose Up
-- The audit log of each CA key. Rows are never deleted or changed.
CREATE TABLE audit (
    ca    TEXT NOT NULL,               -- CA id
    idx   INTEGER NOT NULL,
    entry BLOB NOT NULL,               -- chancery.AuditEntry
    leaf  BLOB NOT NULL,               -- its hash
    PRIMARY KEY (ca, idx)
);
CREATE TABLE audit_checkpoints (
    ca        TEXT NOT NULL,
    size      INTEGER NOT NULL,
    root      BLOB NOT NULL,
    at        INTEGER NOT NULL,
    signature BLOB,                    -- NULL until signed
    PRIMARY KEY (ca, size, at)
);

-- +goose Down
DROP TABLE audit_checkpoints; DROP TABLE audit;
