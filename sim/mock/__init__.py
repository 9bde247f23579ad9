"""The embedded runtime: the contract's runtime core behind real HTTP and WebSocket, its log in SQLite."""
