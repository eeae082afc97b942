"""What a network is shown of a picture: geometry, decoding, sampling."""
