"""Missing labels in LibMTL's training: losses, scores and steps of tasks that have labels."""
