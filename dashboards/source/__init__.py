"""The dashboards as code: `python -m dashboards.source` writes dashboards/*.json, which Grafana takes as they are."""
