"""Answers about pictures: the Analyzer, folders of pictures, annotated copies."""
