"""May this call go? One rule a file. Pure."""
