"""One search by many workers, which have nothing in common but a database."""
