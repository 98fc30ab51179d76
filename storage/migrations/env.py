"""Alembic's entry: it runs this file once for each upgrade. The caller's connection and transaction are used as they are."""

from __future__ import annotations

from alembic import context

context.configure(connection=context.config.attributes["connection"], render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
