"""One search by many workers, which only share a database."""
