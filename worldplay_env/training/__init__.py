"""What made the embedded world: its data, its training stages, the export of its weights."""
