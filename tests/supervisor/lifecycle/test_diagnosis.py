"""The table of causes against texts recorded from real deaths (Metal's from public issue threads)."""

from __future__ import annotations

import pytest

from supervisor.lifecycle.causes import CAUSE_INFO, Cause, Symptom
from supervisor.lifecycle.diagnosis import (
    Evidence,
    MachinePressure,
    choked_on_tool_call,
    diagnose,
    lacks_memory,
    port_taken,
    suspicious,
)
from supervisor.lifecycle.restart_policy import Retry

METAL_OOM = (
    "[METAL] Command buffer execution failed: Insufficient Memory "
    "(00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)"
)
ABORT = "libc++abi: terminating due to uncaught exception of type std::runtime_error: "
TRACKER = "resource_tracker: There appear to be 1 leaked semaphore objects to clean up at shutdown"
THREAD = "2026-01-05 10:11:12,345 - ERROR - mlx_lm.server generation thread died: "


def cause_of(
    symptom: Symptom = Symptom.EXIT,
    *lines: str,
    code: int | None = None,
    signal: int | None = None,
    loading: bool = False,
) -> Cause:
    return diagnose(Evidence(symptom, code, signal, lines), loading=loading).cause


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        (METAL_OOM, Cause.METAL_OOM),
        ("[METAL] Command buffer execution failed: Insufficient Memory", Cause.METAL_OOM),
        (
            "[METAL] Command buffer execution failed: Caused GPU Timeout Error "
            "(00000002:kIOGPUCommandBufferCallbackErrorTimeout)",
            Cause.METAL_ERROR,
        ),
        (
            "[METAL] Command buffer execution failed: (00000003:kIOGPUCommandBufferCallbackErrorHang)",
            Cause.METAL_ERROR,
        ),
        ("[METAL] x (00000005:kIOGPUCommandBufferCallbackErrorInnocentVictim)", Cause.METAL_ERROR),
        ("[METAL] x (00000009:kIOGPUCommandBufferCallbackErrorInvalidResource)", Cause.METAL_ERROR),
        ("[METAL] x (0000000b:kIOGPUCommandBufferCallbackErrorPageFault)", Cause.METAL_ERROR),
        ("[METAL] x (0000000e:kIOGPUCommandBufferCallbackErrorImpactingInteractivity)", Cause.METAL_ERROR),
        ("RuntimeError: cudaMallocAsync(&data, size, stream) failed: out of memory", Cause.CUDA_OOM),
        ("RuntimeError: CUDA error: out of memory", Cause.CUDA_OOM),
        ("RuntimeError: cuModuleLoadData(&module_, code) failed: out of memory", Cause.CUDA_OOM),
        ("RuntimeError: cublasLtMatmul(handle, desc) failed with code: 3.", Cause.CUDA_OOM),
        (
            "[metal::malloc] Attempting to allocate 40802189312 bytes which is greater than the maximum "
            "allowed buffer size of 22613000192 bytes.",
            Cause.ALLOCATION_REFUSED,
        ),
        ("RuntimeError: [malloc] Unable to allocate 34359738368 bytes.", Cause.ALLOCATION_REFUSED),
        ("[malloc_or_wait] Unable to allocate 34359738368 bytes.", Cause.ALLOCATION_REFUSED),
        ("RuntimeError: [metal::malloc] Resource limit (499000) exceeded.", Cause.RESOURCE_LIMIT),
    ],
)
def test_memory_and_metal_text_names_the_cause_however_the_death_was_noticed(line: str, cause: Cause) -> None:
    assert cause_of(Symptom.EXIT, ABORT + line, TRACKER, signal=6) is cause
    assert cause_of(Symptom.EXIT, ABORT + line, code=134) is cause
    assert cause_of(Symptom.THREAD_DEAD, THREAD + line, "Traceback (most recent call last):") is cause
    assert cause_of(Symptom.LOAD_FAILED, THREAD + line, loading=True) is cause
    assert CAUSE_INFO[cause].memory is (cause is not Cause.METAL_ERROR)


@pytest.mark.parametrize(
    ("line", "code", "cause"),
    [
        (
            "FileNotFoundError: [Errno 2] No such file or directory: 'empty/config.json'",
            None,
            Cause.BAD_MODEL,
        ),
        ("ValueError: Model type nonesuch not supported.", None, Cause.BAD_MODEL),
        ("ModuleNotFoundError: No module named 'mlx_lm.models.nonesuch'", None, Cause.LOAD_FAILED),
        (
            "RuntimeError: [load_safetensors] The JSON header is 2442 bytes long but the file is only 1000 "
            "bytes. Perhaps an incomplete download or corrupt file?",
            None,
            Cause.BAD_MODEL,
        ),
        ("ValueError: Missing 11 parameters: ", None, Cause.BAD_MODEL),
        ("ValueError: Received 3 parameters not in model: ", None, Cause.BAD_MODEL),
        (
            "huggingface_hub.errors.HFValidationError: Repo id must be in the form 'a/b'",
            None,
            Cause.BAD_MODEL,
        ),
        ("ValueError: not allowed to raise maximum limit", 1, Cause.FILE_LIMIT),
        ("OSError: [Errno 98] Address already in use", None, Cause.PORT_TAKEN),
        ("OSError: [Errno 48] Address already in use", None, Cause.PORT_TAKEN),
        ("mlx_lm.server: error: unrecognized arguments: --nonesuch 3", 2, Cause.UNSUPPORTED_FLAG),
        ("mlx_lm.server: error: argument --kv-bits: invalid int value: 'foo'", 2, Cause.UNSUPPORTED_FLAG),
        ("ModuleNotFoundError: No module named 'mlx_lm'", 1, Cause.SERVER_MISSING),
        ("/usr/bin/python3: No module named mlx_lm", 1, Cause.SERVER_MISSING),
        ("mlxguard: cannot run /nowhere/server: No such file or directory", 127, Cause.SERVER_MISSING),
    ],
)
def test_text_of_a_failed_start_counts_only_while_loading(line: str, code: int | None, cause: Cause) -> None:
    symptom = Symptom.EXIT if code is not None else Symptom.LOAD_FAILED
    assert cause_of(symptom, line, code=code, loading=True) is cause
    assert cause_of(Symptom.EXIT, line, code=1) is Cause.UNKNOWN


@pytest.mark.parametrize(
    ("signal", "cause"),
    [
        (9, Cause.KILLED_BY_SYSTEM),
        (11, Cause.SEGFAULT),
        (10, Cause.UNKNOWN),
        (6, Cause.ABORTED),
        (15, Cause.UNKNOWN),
    ],
)
def test_a_silent_end_is_told_by_its_signal(signal: int, cause: Cause) -> None:
    import signal as signals

    if signal == signals.SIGBUS:
        cause = Cause.SEGFAULT  # 10 on macOS, 7 on Linux
    assert cause_of(Symptom.EXIT, signal=signal) is cause
    assert cause_of(Symptom.EXIT, code=128 + signal) is cause  # through a shell or mlx.launch


@pytest.mark.parametrize(
    ("symptom", "cause"),
    [
        (Symptom.THREAD_DEAD, Cause.GENERATION_THREAD_DIED),
        (Symptom.LOAD_FAILED, Cause.LOAD_FAILED),
        (Symptom.START_TIMEOUT, Cause.START_TIMEOUT),
        (Symptom.WEDGE, Cause.WEDGE),
        (Symptom.STOPPED, Cause.OWN_STOP),
        (Symptom.RECYCLED, Cause.RECYCLED),
    ],
)
def test_without_text_the_symptom_decides(symptom: Symptom, cause: Cause) -> None:
    assert cause_of(symptom, "2026-01-05 10:11:12,345 - INFO - Prompt processing progress: 1/1") is cause


def test_an_own_stop_is_never_a_crash_whatever_was_logged() -> None:
    assert cause_of(Symptom.STOPPED, METAL_OOM, signal=6) is Cause.OWN_STOP
    assert CAUSE_INFO[Cause.OWN_STOP].retry is Retry.FREE


def test_old_lines_are_no_evidence() -> None:
    assert cause_of(Symptom.EXIT, METAL_OOM, *["later"] * 60, signal=11) is Cause.SEGFAULT


def test_unknown_stays_unknown_and_says_how_it_ended() -> None:
    assert diagnose(Evidence(Symptom.EXIT, exit_code=3), loading=False).explanation == (
        "The server exited with code 3."
    )
    assert diagnose(Evidence(Symptom.EXIT, signal=8), loading=False).explanation == (
        "The server was ended by signal 8."
    )
    assert "unknown reason" in diagnose(Evidence(Symptom.EXIT), loading=False).explanation


@pytest.mark.parametrize(
    ("pressure", "external"),
    [
        (MachinePressure(system_kills=0, free_share=0.01), True),  # Linux counts its kills
        (MachinePressure(system_kills=1, free_share=0.9), False),  # and much is free again at once
        (MachinePressure(free_share=0.5), True),
        (MachinePressure(free_share=0.05), False),
        (MachinePressure(), False),  # nothing is known: what is most common
    ],
)
def test_a_kill_without_lack_of_memory_was_external(pressure: MachinePressure, external: bool) -> None:
    finding = diagnose(Evidence(Symptom.EXIT, signal=9, pressure=pressure), loading=False)
    assert (finding.cause, finding.external) == (Cause.KILLED_BY_SYSTEM, external)


@pytest.mark.parametrize("signal", [1, 2, 3, 15])
def test_a_termination_signal_that_the_proxy_did_not_send_was_external(signal: int) -> None:
    finding = diagnose(Evidence(Symptom.EXIT, signal=signal), loading=False)
    assert finding.external
    assert "other than the proxy" in finding.explanation
    assert not diagnose(Evidence(Symptom.STOPPED, signal=signal), loading=False).external


def test_a_server_that_aborts_after_running_out_of_memory_died_of_that() -> None:
    # Recorded on an H200: the unmodified server mostly lives on as a zombie, but once it ended so.
    lines = (
        "2026-11-22 12:27:44,512 - ERROR - mlx_lm.server generation thread died: "
        "cudaMallocAsync(&data, size, stream) failed: out of memory",
        "Traceback (most recent call last):",
        "    mx.eval([c.state for c in self.prompt_cache])",
        "RuntimeError: cudaMallocAsync(&data, size, stream) failed: out of memory",
        "double free or corruption (fasttop)",
    )
    evidence = Evidence(Symptom.EXIT, signal=6, last_lines=lines)
    assert diagnose(evidence, loading=False).cause is Cause.CUDA_OOM


def test_a_process_that_was_stopped_is_no_wedge_of_its_own() -> None:
    assert diagnose(Evidence(Symptom.WEDGE, stopped=True), loading=False).external
    assert not diagnose(Evidence(Symptom.WEDGE), loading=False).external


def test_text_outranks_the_last_signal() -> None:
    evidence = Evidence(Symptom.EXIT, signal=9, last_lines=(METAL_OOM,), pressure=MachinePressure(0, 0.9))
    assert not diagnose(evidence, loading=False).external


def test_suspicious_lines() -> None:
    assert suspicious(THREAD + "'int' object is not iterable")
    assert not suspicious("2026-01-05 10:11:12,345 - INFO - Prompt processing progress: 1/1")
    assert port_taken("OSError: [Errno 98] Address already in use")


@pytest.mark.parametrize(
    "line", ["RuntimeError: can't start new thread", "object type name: MemoryError", METAL_OOM]
)
def test_a_living_child_may_lack_memory(line: str) -> None:
    assert lacks_memory((line, "a later line"))
    assert not lacks_memory((line, *["later"] * 60)), "that was long ago"
    assert not lacks_memory(("[METAL] x (00000003:kIOGPUCommandBufferCallbackErrorHang)",))


def test_a_tool_call_that_the_servers_thread_failed_at() -> None:
    traceback = (
        "----------------------------------------",
        "Exception occurred during processing of request from ('127.0.0.1', 50123)",
        "Traceback (most recent call last):",
        '  File "/x/mlx_lm/server.py", line 1678, in handle_completion',
        "    tool_calls=tool_formatter(tool_calls),",
        "KeyError: 'arguments'",
        "----------------------------------------",
    )
    assert choked_on_tool_call(traceback, 50123)
    assert not choked_on_tool_call(traceback, 50124), "another connection"
    other = tuple(line for line in traceback if "tool_formatter" not in line)
    assert not choked_on_tool_call((*other, "    tool_calls=tool_formatter(tool_calls),"), 50123)
    assert not choked_on_tool_call((), 50123)
