"""Where and when the algorithm runs: devices, streams, capture, batches on their way. It knows no paper."""
