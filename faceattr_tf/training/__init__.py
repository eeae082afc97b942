"""The training loop and what it needs; layer probes and dry runs."""
