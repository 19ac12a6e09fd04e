"""What can be stepped: the interface of a world, and the worlds."""
