"""The weightings as LibMTL classes, one a file; LibMTL's Trainer mixes them into its model."""
