"""Files on disk, in and out: pictures, tables, MATLAB, TFRecords."""
