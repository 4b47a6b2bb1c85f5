"""The load harness: a compiled client, scenarios, and a report (console command `tuskws-bench`)."""
