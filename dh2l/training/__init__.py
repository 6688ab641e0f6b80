"""Training of one trial: objective, step, evaluation, checkpoint, epochs."""
