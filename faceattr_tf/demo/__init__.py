"""A page on this machine to try a trained model: pictures go in, faces with their attributes come out."""
