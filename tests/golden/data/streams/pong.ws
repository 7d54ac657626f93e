{"type":"pong"}
