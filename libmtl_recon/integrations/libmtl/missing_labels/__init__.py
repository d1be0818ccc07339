"""Missing labels in LibMTL's training: losses, scores and steps of the tasks that have some."""
