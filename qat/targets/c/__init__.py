"""C99, compiled and run."""
