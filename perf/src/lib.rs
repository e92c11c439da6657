//! Load generator, workloads and limits.
