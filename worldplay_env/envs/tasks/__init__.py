"""Tasks: aims of episodes."""
