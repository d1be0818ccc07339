"""What is wrong with a search, seen before anything is trained."""

