"""`mlxguard-proxy doctor`: tests in seconds whether everything works on this machine.

What differs between systems (process memory, ports, signals, Metal) cannot be known from documentation, so
the doctor tries it. Nothing is downloaded, and no model of the user's is loaded. `command.run` makes the
checks one after the other and prints each result as it is known; meanwhile `serving` runs the real server
with the embedded model once.

Looking and judging are separate, so that judgements for a Mac can be tested anywhere:

- `trials` starts small programs of known behaviour (`trial_programs`) and reports what it saw of them;
  `serving` reports what it saw of one life of the real server. Neither judges.
- `machine` judges what was seen of the machine, `settings` what the configuration needs of it. Both are
  functions from what was seen to a `check_result.CheckResult`: verdict, what was found, what to do.

Invariants:

- Every check gives a result. An exception in a check is a failed result, and the other checks still run.
- Whatever is not ok comes with one sentence of advice.
- Nothing is left behind: processes are killed at the end of their trial, also after Ctrl-C, and folders are
  temporary.
- The exit code is 6 if and only if a check failed; a warning is no failure.

It stands at the top of the gateway's layers and may use any of them, except `proxy.app`; only `proxy.cli`
uses it.
"""
