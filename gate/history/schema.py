"""The tables of the history, as the newest migration leaves them. Times are seconds since 1970 (UTC), digests hexadecimal."""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, Boolean, Double, ForeignKey, Index, Integer, MetaData, String, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

NAMES = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
    "pk": "pk_%(table_name)s",
}


class Base(DeclarativeBase):
    """All tables; constraints have names, so that migrations can change them."""

    metadata = MetaData(naming_convention=NAMES)


class RunRow(Base):
    """One run: a row is a run folder, begun at one moment, with the verdict it gave last."""

    __tablename__ = "runs"
    __table_args__ = (Index(None, "model", "finished_at"),)

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    model: Mapped[str] = mapped_column(String(200))
    decision: Mapped[str] = mapped_column(String(16))
    reason: Mapped[str] = mapped_column(Text)
    candidate_digest: Mapped[str] = mapped_column(String(64), index=True)
    policy_name: Mapped[str] = mapped_column(Text)
    policy_digest: Mapped[str] = mapped_column(String(64))
    suite_name: Mapped[str] = mapped_column(Text)
    suite_digest: Mapped[str] = mapped_column(String(64))
    engine: Mapped[str] = mapped_column(Text)
    tool_version: Mapped[str] = mapped_column(Text)
    begun_at: Mapped[float] = mapped_column(Double)
    finished_at: Mapped[float] = mapped_column(Double)
    stage_seconds: Mapped[dict[str, Any]] = mapped_column(JSON)
    max_increase: Mapped[float] = mapped_column(Double)
    folder: Mapped[str] = mapped_column(Text)
    """Where the run folder lay when it was recorded."""
    candidate_source: Mapped[str] = mapped_column(Text)
    candidate_json: Mapped[str] = mapped_column(Text, deferred=True)
    verdict_json: Mapped[str] = mapped_column(Text, deferred=True)
    """The bytes of verdict.json."""
    verdict_sha256: Mapped[str] = mapped_column(String(64))
    recorded_at: Mapped[float] = mapped_column(Double)
    released_at: Mapped[float | None] = mapped_column(Double)
    cells: Mapped[list[CellRow]] = relationship(
        order_by="CellRow.position", cascade="all, delete-orphan", passive_deletes=True, lazy="selectin"
    )


class CellRow(Base):
    """One rate of a run."""

    __tablename__ = "cells"

    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)
    position: Mapped[int] = mapped_column(Integer, primary_key=True)
    task: Mapped[str] = mapped_column(String(64))
    calibration: Mapped[str] = mapped_column(String(64))
    decoding: Mapped[str] = mapped_column(Text)
    measure: Mapped[str] = mapped_column(String(32))
    gated: Mapped[bool] = mapped_column(Boolean)
    threshold: Mapped[float | None] = mapped_column(Double)
    asked: Mapped[int] = mapped_column(Integer)
    judged: Mapped[int] = mapped_column(Integer)
    hits: Mapped[int] = mapped_column(Integer)
    missing: Mapped[int] = mapped_column(Integer)
    invalid: Mapped[int] = mapped_column(Integer)
    rate: Mapped[float | None] = mapped_column(Double)
    lower: Mapped[float] = mapped_column(Double)
    upper: Mapped[float] = mapped_column(Double)
    baseline: Mapped[float | None] = mapped_column(Double)
    difference: Mapped[float | None] = mapped_column(Double)
    difference_lower: Mapped[float | None] = mapped_column(Double)


class RetiredRow(Base):
    """A model that is shown no more, unless a run of it ends after that moment."""

    __tablename__ = "retired"

    model: Mapped[str] = mapped_column(String(200), primary_key=True)
    retired_at: Mapped[float] = mapped_column(Double)
