"""What is given to Grafana, Prometheus and the stack: pages, rules, provisioning; made by `dashboards.source`."""
