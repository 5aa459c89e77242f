"""Run by Alembic: the migrations go over the connection that `migrate.config` was given, within its transaction."""

from __future__ import annotations

from alembic import context

from gate.history.schema import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    render_as_batch=True,  # SQLite alters little in place
)
context.run_migrations()
