-- One body again and again; at the end one line for tests/bench/load.py: requests, microseconds, p50, p99, failures.
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Authorization"] = "Bearer " .. os.getenv("BENCH_KEY")
wrk.body = io.open(os.getenv("BENCH_BODY")):read("*a")

done = function(summary, latency)
   local e = summary.errors
   io.write(string.format("bench %d %d %d %d %d\n", summary.requests, summary.duration, latency:percentile(50),
      latency:percentile(99), e.connect + e.read + e.write + e.status + e.timeout))
end
