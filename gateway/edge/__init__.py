"""The rooms that touch the world: HTTP server, upstream client, admin API, clock, tasks."""
