"""The traps that make a client go around the proxy: one table of them, and one examiner for each kind of client."""
