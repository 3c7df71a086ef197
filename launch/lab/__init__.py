"""The laboratory: experiments, sweeps, reports and benchmarks."""
