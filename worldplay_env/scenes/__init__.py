"""The true worlds: procedural scenes that can be rendered exactly from any camera."""
