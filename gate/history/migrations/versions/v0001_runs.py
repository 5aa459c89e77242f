"""Runs with their rates and release marks, and models that were retired."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "runs",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("model", sa.String(200), nullable=False),
        sa.Column("decision", sa.String(16), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("candidate_digest", sa.String(64), nullable=False),
        sa.Column("policy_name", sa.Text, nullable=False),
        sa.Column("policy_digest", sa.String(64), nullable=False),
        sa.Column("suite_name", sa.Text, nullable=False),
        sa.Column("suite_digest", sa.String(64), nullable=False),
        sa.Column("engine", sa.Text, nullable=False),
        sa.Column("tool_version", sa.Text, nullable=False),
        sa.Column("begun_at", sa.Double, nullable=False),
        sa.Column("finished_at", sa.Double, nullable=False),
        sa.Column("stage_seconds", sa.JSON, nullable=False),
        sa.Column("max_increase", sa.Double, nullable=False),
        sa.Column("folder", sa.Text, nullable=False),
        sa.Column("candidate_source", sa.Text, nullable=False),
        sa.Column("candidate_json", sa.Text, nullable=False),
        sa.Column("verdict_json", sa.Text, nullable=False),
        sa.Column("verdict_sha256", sa.String(64), nullable=False),
        sa.Column("recorded_at", sa.Double, nullable=False),
        sa.Column("released_at", sa.Double),
        sa.PrimaryKeyConstraint("id", name="pk_runs"),
    )
    op.create_index("ix_runs_model_finished_at", "runs", ["model", "finished_at"])
    op.create_index("ix_runs_candidate_digest", "runs", ["candidate_digest"])
    op.create_table(
        "cells",
        sa.Column("run_id", sa.String(64), nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("task", sa.String(64), nullable=False),
        sa.Column("calibration", sa.String(64), nullable=False),
        sa.Column("decoding", sa.Text, nullable=False),
        sa.Column("measure", sa.String(32), nullable=False),
        sa.Column("gated", sa.Boolean, nullable=False),
        sa.Column("threshold", sa.Double),
        *(sa.Column(name, sa.Integer, nullable=False) for name in ("asked", "judged", "hits", "missing", "invalid")),
        sa.Column("rate", sa.Double),
        sa.Column("lower", sa.Double, nullable=False),
        sa.Column("upper", sa.Double, nullable=False),
        *(sa.Column(name, sa.Double) for name in ("baseline", "difference", "difference_lower")),
        sa.PrimaryKeyConstraint("run_id", "position", name="pk_cells"),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name="fk_cells_run_id", ondelete="CASCADE"),
    )
    op.create_table(
        "retired",
        sa.Column("model", sa.String(200), nullable=False),
        sa.Column("retired_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("model", name="pk_retired"),
    )


def downgrade() -> None:
    """Remove them, with all they hold."""
    for table in ("retired", "cells", "runs"):
        op.drop_table(table)
