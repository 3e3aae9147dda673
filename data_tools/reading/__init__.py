"""Finding and reading text: files, globs and streams, in an order no machine changes."""
