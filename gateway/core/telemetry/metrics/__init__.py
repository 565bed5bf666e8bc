"""The journal as counters, histograms and gauges, and their text. Pure."""
