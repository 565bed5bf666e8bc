"""Meterbox: the observability gateway for LLM agents."""
