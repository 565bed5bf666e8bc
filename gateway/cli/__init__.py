"""The verbs of the command line, one or one family a file."""
