"""What projections share: the journal understood, names of spans and metrics, the texts of alerts. Pure."""
