"""From records to batches: order, parsing, labels, random distortions."""
