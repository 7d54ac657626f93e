{"type":"error","title":"No JSON","detail":"Expected a JSON object such as {\"type\":\"subscribe\",\"operations\":[\"friday-42\"]}."}
{"type":"error","title":"No object","detail":"Expected a JSON object such as {\"type\":\"subscribe\",\"operations\":[\"friday-42\"]}."}
{"type":"error","title":"Unknown type","detail":"Expected a message of type subscribe, unsubscribe or ping."}
{"type":"error","title":"No operations","detail":"Expected operations: a list of ids, or \"*\" for all."}
{"type":"error","title":"Not an id","detail":"Expected ids of 1 to 256 characters, and found 1."}
{"type":"error","title":"levels is no boolean","detail":"Expected true or false."}
{"type":"error","title":"levels of everything","detail":"Name the operations to follow with their levels."}
{"type":"error","title":"Message too long","detail":"Expected at most 65536 bytes."}
