"""Runs beside each other, with paired intervals and what stands against reading them as causes."""
