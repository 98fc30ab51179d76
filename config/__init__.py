"""The shipped defaults, as data: the default configuration, the signers of well-known images and the client templates."""
