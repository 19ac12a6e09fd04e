"""Pictures, films and files."""
