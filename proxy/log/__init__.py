"""Log lines: one per event, as JSON for programs or as text for a person on a terminal.

Every module names an event and gives its facts as fields:

    log = logging.getLogger("mlxguard.relay")
    log.info("answered", extra={"status": 200, "ms": 12})

`setup` is called once, by the command line, before anything else logs; it connects the rest: `format` turns a
record into a line, `masking` removes keys from it, `output` writes it without ever waiting.

Invariants:
- The area of a line is its logger's name after `mlxguard.`; lines of a request carry its id by themselves.
- No field has prompt text or a key in it. Masking is the last line of defence, not the first.
- Nothing from outside can forge a line or move a cursor: control characters are escaped, long values cut.
- Logging never blocks the event loop and never raises. What cannot be written is counted as lost.

The package imports only the settings; everything else may import it.
"""
