-- +goose Up
-- Boot states that operators approved ahead of time, and the approvals that
-- were signed for nodes.
CREATE TABLE boot_states (
    id       INTEGER PRIMARY KEY,
    names    TEXT NOT NULL,            -- glob of the nodes that it is for
    pcrs     TEXT NOT NULL,            -- JSON: values
    operator TEXT NOT NULL,
    at       INTEGER NOT NULL
);
CREATE TABLE boot_approvals (
    state     INTEGER NOT NULL,
    node_id   BLOB NOT NULL,
    epoch     INTEGER NOT NULL,
    signature BLOB NOT NULL,
    PRIMARY KEY (state, node_id, epoch)
);

-- What a node's chip attested last, and whether its epoch is to be raised.
ALTER TABLE nodes ADD COLUMN epoch INTEGER NOT NULL DEFAULT 0;
ALTER TABLE nodes ADD COLUMN resets INTEGER NOT NULL DEFAULT 0;
ALTER TABLE nodes ADD COLUMN clock INTEGER NOT NULL DEFAULT 0;
ALTER TABLE nodes ADD COLUMN retire TEXT NOT NULL DEFAULT '';        -- '' | wanted | raised
ALTER TABLE nodes ADD COLUMN raised_at INTEGER NOT NULL DEFAULT 0;   -- resets when the raised epoch was first seen

-- +goose Down
DROP TABLE boot_approvals; DROP TABLE boot_states;
