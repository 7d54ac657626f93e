{"type":"error","title":"Invalid JSON","detail":"Expected a JSON object such as {\"type\":\"subscribe\",\"operations\":[\"friday-42\"]}."}
{"type":"error","title":"Invalid message","detail":"Expected a JSON object such as {\"type\":\"subscribe\",\"operations\":[\"friday-42\"]}."}
{"type":"error","title":"Unknown type","detail":"Expected the type subscribe, unsubscribe or ping."}
{"type":"error","title":"Invalid operations","detail":"Expected a list of ids, or \"*\" for all."}
{"type":"error","title":"Invalid id","detail":"Expected 1 to 256 characters instead of 1."}
{"type":"error","title":"Invalid levels","detail":"Expected true or false."}
{"type":"error","title":"Levels of all operations","detail":"Name the operations to follow with their levels."}
{"type":"error","title":"Message too long","detail":"Expected at most 65536 bytes."}
