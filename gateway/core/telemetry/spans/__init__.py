"""The journal as spans: ids, names of spans, their attributes, what each backend reads. Pure."""
