"""Studies: from a config to a table, figures and a report."""
