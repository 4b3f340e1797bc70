"""The eBPF tracer: the only place that knows native code."""
