"""Journal in a Redis or Valkey server that processes of several machines share."""
