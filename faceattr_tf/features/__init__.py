"""What a frozen network gives for every image, kept and learned from."""
