-- +goose Up
-- A partial index does not serve who asks for a name whatever the state.
CREATE INDEX nodes_called ON nodes (name);

-- +goose Down
DROP INDEX nodes_called;
