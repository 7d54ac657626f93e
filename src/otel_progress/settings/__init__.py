"""Settings: declaration, parsing and precedence."""
