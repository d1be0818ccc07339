"""Check every weighting of the installed LibMTL with every architecture: what trains correctly."""
