"""Training: arguments, models from nothing, the loop."""
