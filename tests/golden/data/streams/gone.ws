{"type":"progress.gone","id":"EPOCH-NUMBER","gone":{"run":"run-done","operation_id":"done-1"}}
