-- +goose Up
-- What status counts, of a million nodes, without reading them.
CREATE INDEX nodes_simulator ON nodes (name) WHERE state = 'active' AND simulator = 1;
CREATE INDEX nodes_held      ON nodes (name, held) WHERE state = 'active' AND held != '';
CREATE INDEX nodes_ended     ON nodes (state) WHERE state != 'active';

-- +goose Down
DROP INDEX nodes_simulator; DROP INDEX nodes_held; DROP INDEX nodes_ended;
