"""Compose: job file, plan, run, resume. The only room that knows Dask."""
