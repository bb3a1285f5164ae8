"""Results for people and for scripts: JSON in seconds, text in milliseconds, pictures."""
