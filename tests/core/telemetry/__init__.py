"""Claims about what projections share."""
