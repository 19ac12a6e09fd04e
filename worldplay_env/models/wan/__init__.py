"""What every Wan 2.2 model shares."""
