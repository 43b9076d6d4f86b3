-- +goose Up
-- Cosignatures of witnesses over the subtree that certifies a batch, as they
-- stand in its certificates. They were all there before any was handed out.
CREATE TABLE cosignatures (
    ca        TEXT NOT NULL,
    log       INTEGER NOT NULL,
    tree_end  INTEGER NOT NULL,
    cosigner  TEXT NOT NULL,           -- trust anchor ID
    signature BLOB NOT NULL,           -- ECDSA in DER
    PRIMARY KEY (ca, log, tree_end, cosigner)
);

-- +goose Down
DROP TABLE cosignatures;
