"""Run folders: written once, checked when opened, listed through an index that can always be rebuilt."""

from ropewalk.runs.store import FORMAT, Run, StoredRun, create_run, open_run, runs_root

__all__ = ["FORMAT", "Run", "RunEntry", "StoredRun", "create_run", "list_runs", "open_run", "runs_root"]

from ropewalk.runs.index import RunEntry, list_runs
