"""The verification pipeline: find evidence, judge each piece of it, say why. One module per signature format."""
