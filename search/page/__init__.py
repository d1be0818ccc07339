"""The page of a study: one HTML file with everything in it, to look at and to pass on."""
