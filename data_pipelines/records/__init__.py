"""TFRecords of a data set: built, described, counted, looked at."""
