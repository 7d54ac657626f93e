{"type":"ready"}
