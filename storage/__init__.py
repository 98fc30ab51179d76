"""Tagstone's nouns (digests, references, pins, blobs) and the places that keep them: the database and the blob store."""
