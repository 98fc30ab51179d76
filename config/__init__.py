"""The shipped defaults, as data: the default configuration and the client templates."""
