"""Claims about what Grafana, Prometheus and the stack are given."""
