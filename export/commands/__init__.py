"""The commands faceattr-export, faceattr-deploy and faceattr-client."""
