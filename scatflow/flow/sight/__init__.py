"""A run in plain sight: what it tells of itself, and who listens.

Blocks end in receipts; :mod:`watch` adds them up and tells listeners: the terminal
(:mod:`scatflow.flow.progress`), a log of JSON lines, the panel on Dask's dashboard, the report and
commands to call at the end. None of them decides anything: a run goes on without them.
"""
