"""What a trained network has learnt, beyond how well it answers: one function a figure."""
