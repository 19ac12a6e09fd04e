"""From keys, actions and trajectories to cameras; numpy alone (spec sections 2 and 3)."""
