"""The adapters that talk to upstream registries."""
