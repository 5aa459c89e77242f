"""Past runs in a database: run folders and release marks go in; trends, baselines and current standings come out.

SQLite in a file, or PostgreSQL by URL. `entries.py` reads a run folder, `location.py` a database's name, `store.py` keeps runs
and finds them; the tables are in `schema.py`, and change by `migrations/` alone.
"""
