-- +goose Up
-- X.509 certificates by their serial numbers: those that accompany entries of
-- logs, and, as of log 0, which there is none of, the issuer's own.
CREATE TABLE x509_certificates (
    ca   TEXT NOT NULL,
    log  INTEGER NOT NULL,
    idx  INTEGER NOT NULL,
    spki BLOB NOT NULL,                      -- the one key that has the serial number
    der  BLOB,                               -- NULL until it is signed
    PRIMARY KEY (ca, log, idx)
);

-- +goose Down
DROP TABLE x509_certificates;
