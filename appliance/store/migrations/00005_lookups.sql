-- +goose Up
-- A partial index does not serve who asks for a name whatever the state, and
-- the primary key of entries hid the index on node_id alone.
CREATE INDEX nodes_called ON nodes (name);
DROP INDEX entries_node;
CREATE INDEX entries_node ON entries (ca, log, node_id, idx);
CREATE INDEX entries_of ON entries (node_id);

-- +goose Down
DROP INDEX nodes_called; DROP INDEX entries_of; DROP INDEX entries_node;
CREATE INDEX entries_node ON entries (node_id);
