"""Tasks: what an episode asks for."""
