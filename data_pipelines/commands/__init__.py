"""The command faceattr-data, and how every command of this project ends."""
