"""What is seen of a run: summaries on the terminal, a report in one HTML file, the trace of a record, a live view.

Everything is read from the run folder through the ledger, so it works for a run that goes on, is over, or has failed.
"""
