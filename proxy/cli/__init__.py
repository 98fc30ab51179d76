"""The command line: what an operator types, and the exit codes scripts read."""
