"""Data sets of labelled faces: from their official folders to TFRecords to batches."""
