"""What a run is made of: the loop, its files, its checkpoints, its evaluations."""
