"""The state folder of one proxy: its lock, the record of the running child, crash reports, small JSON files.

`folder.StateFolder` is opened by the supervisor before the first start and closed after the last stop. Its
lock keeps a second proxy out. `child.json` names the running child, so that the next start can kill a child
that outlived both gateway and keeper. `json_file` reads and writes the files; `saver` writes them in a
thread.

Invariants: a reader never sees half a file, and a file of another version counts as missing. Only taking the
folder may fail; every later write that fails is logged, because a full disk must not keep the child down.

May import `supervisor.child` (to kill an orphan), `supervisor.machine` and `supervisor.aio`.
"""
