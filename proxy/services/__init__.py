"""The services: gate, ingest and what stands around them. All I/O is orchestrated here."""
