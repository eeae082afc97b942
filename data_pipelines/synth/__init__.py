"""Drawn faces in the layouts of the data sets, for tests and the demo."""
