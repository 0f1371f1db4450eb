"""KL-regularised reinforcement learning: objectives, the loop, run folders and the CTRL pipeline."""
