"""A store's SQLite database: its files and their one owner, its errors, and the log that belongs to it."""
