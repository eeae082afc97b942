"""From arrays of answers and labels to numbers: metrics, intervals, calibration, leakage."""
