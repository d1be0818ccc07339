"""Tasks with a label per pixel: their losses and metrics, and a Trainer for them."""
