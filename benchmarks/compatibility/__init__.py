"""Every weighting of the installed LibMTL with every architecture: what trains, and how rightly."""
