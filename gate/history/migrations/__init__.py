"""The history's schema, step by step: `versions/` holds the steps, `env.py` is what Alembic runs them through."""
