//! Micro benches of the sidecar's hot path live in `benches/`; this library is empty.
