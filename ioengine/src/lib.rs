//! The only door to the outside: disk, network, clock, cores, randomness, shared memory; real and simulated.
