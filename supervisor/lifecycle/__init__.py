"""Pure. Decides what happens to the child: its state machine, and what a death means.

Everything here is a function of values that the caller hands in, time and randomness included, so that
each rule can be tested without a process or a clock. `supervisor.supervisor` and `supervisor.child`
collect the facts and carry out the decisions.

One life of the child, in the order in which the rules apply:

1. `state_machine` maps (state, event) to a new state and effects. `events` defines both kinds of values.
2. `stall_watch` is told twice a second what can be seen of a serving child and says when it counts as
   stalled; `silence_limits` says how long it may be silent in each phase of its work.
3. `diagnosis` turns the evidence of one death (exit status, last lines of output, liveness, free memory from
   `memory_history`) into a cause; `causes` lists the causes and what holds for each of them.
4. `restart_policy` decides whether and when to restart.
5. `advice` names a setting and a value for the user, worked out from the requests that were `in_flight`.

Invariants: an event that a state does not know raises `IllegalEvent` and changes nothing. The text of a
signature outranks the exit status. A death that nothing explains stays UNKNOWN; no cause is ever guessed.

Imports only `supervisor.memory_model` (for plans in advice), which is pure too.
"""
